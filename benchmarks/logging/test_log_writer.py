"""Cost of logging in the training thread, compared with its minimum: values put into a dict, a line written.

One unit of work is one metric, or one boundary with n metrics. Both sides are checked to hold the same values.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.timing import interleaved
from noether.kernel.progress import TrainingIteration, UpdateCounter
from noether.metrics.log import LogWriter
from noether.metrics.metrics_file import MetricsFile

KEY = "loss/online/total"
METRICS = (1, 5, 100, 1000)
GROWTH = 1.5
"""A thousand metrics may cost so many times as much, each, as a hundred."""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[LogWriter]:
    opened = LogWriter(MetricsFile(tmp_path / "metrics.jsonl"))
    yield opened
    opened.close()


@pytest.mark.parametrize("kind", ["float", "tensor"])
def test_add_scalar(benchmark: BenchmarkFixture, writer: LogWriter, kind: str) -> None:
    """Microseconds of a metric; a tensor is put into the dict as the number that it holds."""
    value: Any = 0.5 if kind == "float" else torch.tensor(0.5)
    values: dict[str, float] = {}

    def into_a_dict() -> None:
        values[KEY] = value if kind == "float" else value.item()

    add = partial(writer.add_scalar, KEY, value)
    timing = interleaved({"dict": into_a_dict, "add_scalar": add}, calls=5000)
    assert writer.current(KEY) == values[KEY] == 0.5
    benchmark.extra_info |= {**timing.facts(), "ratio": timing.ratio("add_scalar", "dict")}
    benchmark.pedantic(add, rounds=20, iterations=500)


def test_boundaries(benchmark: BenchmarkFixture, writer: LogWriter, tmp_path: Path) -> None:
    """Microseconds of a boundary by number of metrics, beside one JSON line of the same."""
    counter = UpdateCounter(TrainingIteration(1, 50, 3200), TrainingIteration(epoch=30), 50, 64)
    ratios, each = {}, {}
    with (tmp_path / "plain.jsonl").open("a") as file:

        def plain(keys: list[str]) -> None:
            line = {"update": 50, "epoch": 1, "sample": 3200, "time": 0.0, "metrics": dict.fromkeys(keys, 0.31)}
            file.write(json.dumps(line) + "\n")
            file.flush()

        def ours(keys: list[str]) -> None:
            for key in keys:
                writer.add_scalar(key, 0.31)
            writer.flush(counter)

        for number in METRICS:
            keys = [f"{KEY}/{index}" for index in range(number)]
            ways = {"plain": partial(plain, keys), "ours": partial(ours, keys)}
            timing = interleaved(ways, calls=max(2, 500 // number))
            ratios[f"{number} metrics"] = timing.ratio("ours", "plain")
            each[number] = timing.micro("ours") / number
        benchmark.pedantic(ours, (keys[:5],), rounds=20, iterations=20)
    assert writer.final_metrics == dict.fromkeys(keys, 0.31)
    benchmark.extra_info |= {"ratios": ratios, "us_a_metric": each}
    assert each[1000] < GROWTH * each[100]
