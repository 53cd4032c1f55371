"""The cost of locating every key and value of a TOML text, beside parsing it with `tomllib`.

One unit of work is one whole text, in memory. Both are checked to find the same paths before they are timed, in turns.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.timing import interleaved
from noether.spec.locate import Locations, TomlPath
from noether.spec.read.document import MAX_BYTES

ROUNDS = 21
AT_MOST_TIMES_TOMLLIB = 3.0
AT_MOST_SECONDS_FOR_A_STRING = 0.05

CALLBACK = """
[[trainer.callbacks]]           # one of many
id = "val-NUMBER"
kind = "offline-loss"
every_n_epochs = 1
dataset_key = "test"
properties = ["pressure", "velocity"]

[[trainer.callbacks.eval_callbacks]]
kind = "ema"
target_factors = [0.9, 0.99, 0.999]
schedule = { kind = "linear-warmup-cosine-decay", warmup_percent = 5 }
options.scale = 1e-3
options."what it does" = '''
Keeps a moving average of the weights.
'''
"""
HEAD = """\
spec = 1
name = "airfoil-pressure"
seed = 0
[datasets.train]
kind = "airfoil"
[model.optimizer]
kind = "AdamW"
lr = 1e-3
[trainer]
max_epochs = 30
effective_batch_size = 32
"""
SPEC = HEAD + "".join(CALLBACK.replace("NUMBER", str(number)) for number in range(30))

LONG_STRINGS = {
    "lines": '"""' + "lorem ipsum dolor\n" * (MAX_BYTES // 18) + '"""',
    "quotes": '"""' + '"a' * (MAX_BYTES // 2) + '"""',
    "escapes": '"""' + "\\n" * (MAX_BYTES // 2) + '"""',
    "apostrophes": "'''" + "'a" * (MAX_BYTES // 2) + "'''",
    "one line": '"' + "a\\\\" * (MAX_BYTES // 3) + '"',
}


def paths(value: Any, path: TomlPath = ()) -> Iterator[TomlPath]:
    yield path
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(item, (*path, key))


def seconds(call: Callable[[str], Any], text: str) -> float:
    start = time.perf_counter()
    call(text)
    return time.perf_counter() - start


def test_locating_a_long_spec_beside_parsing_it(benchmark: BenchmarkFixture) -> None:
    """Milliseconds for 500 lines; at most three times the parser."""
    assert 490 <= SPEC.count("\n") <= 520
    assert set(Locations(SPEC)) == set(paths(tomllib.loads(SPEC)))
    timing = interleaved({"locate": partial(Locations, SPEC), "tomllib": partial(tomllib.loads, SPEC)}, rounds=ROUNDS)
    ratio = timing.ratio("locate", "tomllib")
    locate, parse = (timing.micro(name) / 1e3 for name in timing.seconds)
    benchmark.extra_info |= {"locate_ms": locate, "tomllib_ms": parse, "ratio": ratio}
    print(f"\n{SPEC.count(chr(10))} lines: locate {locate:.2f} ms, tomllib {parse:.2f} ms, ratio {ratio:.2f}")
    benchmark.pedantic(Locations, (SPEC,), rounds=ROUNDS)
    assert ratio <= AT_MOST_TIMES_TOMLLIB


@pytest.mark.parametrize("kind", LONG_STRINGS)
def test_locating_a_string_as_long_as_a_spec_may_be(benchmark: BenchmarkFixture, kind: str) -> None:
    """Milliseconds for 1 MiB in one string; the best of some rounds stays below 50."""
    text = f"a = {LONG_STRINGS[kind]}"
    assert set(Locations(text)) == set(paths(tomllib.loads(text)))
    best = min(seconds(Locations, text) for _ in range(5))
    benchmark.extra_info |= {"best_ms": best * 1e3}
    print(f"\n1 MiB of {kind}: {best * 1e3:.1f} ms")
    benchmark.pedantic(Locations, (text,), rounds=5)
    assert best <= AT_MOST_SECONDS_FOR_A_STRING
