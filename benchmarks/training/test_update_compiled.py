"""The cost of one compiled update: `noether run` with `update = "compiled"` compared with the textbook loop.

The work is that of `test_update.py`, with our own data path. The textbook loop has torch's default AdamW, and its
batches lie ready in memory. The two take turns of some updates in one process, and have to end with the same weights
within rounding.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.tiny import InMemory, bare_loop, beside

TURN, TURNS = 40, 100
RATIO = 0.4
pytestmark = pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")


def measured() -> dict[str, float]:
    """Return the microseconds of an update of both, and their ratio; `beside` compares their weights."""
    timing = beside({"textbook": bare_loop(fused=False)}, turn=TURN, turns=TURNS, dataset=InMemory, update="compiled")
    return timing.facts() | {"ratio": timing.ratio("ours", "textbook")}


def test_compiled_update_beside_the_textbook_loop(
    benchmark: BenchmarkFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiled update takes at most 0.4 of the time of the textbook loop, in the best of three runs."""
    monkeypatch.chdir(tmp_path)

    def best() -> dict[str, float]:
        found = measured()
        for _ in range(2):  # more if the machine's other users hide it
            if found["ratio"] > RATIO:
                found = min(found, measured(), key=lambda each: each["ratio"])
        return found

    found = benchmark.pedantic(best, rounds=1)
    benchmark.extra_info |= found
    ours, textbook = found["ours_us"], found["textbook_us"]
    print(f"\na compiled update: {ours:.1f} us, textbook loop {textbook:.1f} us: ratio {found['ratio']:.2f}")
    assert found["ratio"] <= RATIO
