"""The cost of starting: `--help`, `plugins list`, `import noether`, and a run up to its first update.

One unit of work is one whole process, in processor time; the quickest of some counts. Beside each stands the least that
a process can do: bare Python, or one that imports torch and builds the same model and data by hand.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.timing import Timing, in_turns, processor_seconds

ROOT = Path(__file__).parents[2]
PROCESSES = 5
RUN = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import noether
from benchmarks.tiny import spec
table = spec(1)
table["trainer"].pop("track_every_n_updates")
assert noether.run(table, quiet=True).error is None
"""
BY_HAND = """
import numpy, torch
arrays = {name: torch.from_numpy(array) for name, array in numpy.load("train.npz").items()}
model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.GELU(), torch.nn.Linear(32, 1))
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
torch.nn.functional.mse_loss(model(arrays["x"][:32]), arrays["y_target"][:32]).backward()
optimizer.step()
"""


def published(benchmark: BenchmarkFixture, timing: Timing) -> float:
    """Publish the quickest processes; return the seconds above the other one."""
    ours, other = (min(timing.seconds[name]) for name in ("ours", "other"))
    benchmark.extra_info |= {"seconds": ours, "other": other, "above": ours - other}
    benchmark.pedantic(int, rounds=1)
    print(f"\n{ours:.3f} s, {ours - other:+.3f} s")
    return ours - other


@pytest.mark.parametrize(
    ("arguments", "gate"),
    [
        (("-m", "noether", "--help"), 0.5),
        (("-m", "noether", "plugins", "list"), 0.6),
        (("-c", "import noether"), 0.12),
    ],
    ids=["help", "plugins", "import"],
)
def test_command(benchmark: BenchmarkFixture, tmp_path: Path, arguments: tuple[str, ...], gate: float) -> None:
    """Seconds of what people type first, beside bare Python; the gate leaves room for slower machines."""
    ways = {
        "ours": lambda: processor_seconds(tmp_path, *arguments),
        "other": lambda: processor_seconds(tmp_path, "-c", "pass"),
    }
    assert published(benchmark, in_turns(ways, rounds=PROCESSES)) <= gate


def test_first_update(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Seconds of a run of one update, its start and its end included, beside the same update by hand."""
    from benchmarks.tiny import write_data

    write_data(tmp_path)
    ways = {
        "ours": lambda: processor_seconds(tmp_path, "-c", RUN),
        "other": lambda: processor_seconds(tmp_path, "-c", BY_HAND),
    }
    assert published(benchmark, in_turns(ways, rounds=PROCESSES)) <= 4.0
