"""Cost of a slow tracking server for an update: the same updates with a tracker feed and without.

One unit of work is an update of a small MLP; every 50 updates five metrics are written. Lines that the feed
is told of alternate with lines that nobody is told of, and the median of the pairs' ratios counts. The feed's thread
computes in the same process: what it takes from training is the CPU time of the process above that of the training
thread, as a share of the time that has passed, for the server's answers do not come faster where the machine is busy.
The server is a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.timing import Timing
from noether.core.trackers import RunDescription, TrackerFeed
from noether.core.trackers.mlflow import MlflowTracker, MlflowTrackerConfig
from noether.kernel.progress import TrainingIteration, UpdateCounter
from noether.metrics.log import LogWriter
from noether.metrics.metrics_file import MetricsFile

UPDATES_A_LINE, SECONDS = 50, 8.0
KEYS = [f"loss/online/{name}" for name in ("total", "pressure", "velocity", "drag", "lift")]
NEVER_S = 3600.0
SLACK = 0.03
"""Two equal sides differ by so much on a machine whose cores are shared."""


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    command = [sys.executable, str(Path(__file__).with_name("slow_server.py")), str(request.param), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()


@pytest.fixture
def feed(server: str, tmp_path: Path) -> Iterator[TrackerFeed]:
    import mlflow  # noqa: F401  # a run imports it while it is built, not while it trains

    tracker = MlflowTracker(MlflowTrackerConfig(kind="mlflow", tracking_uri=server))
    for name in ("spec.toml", "spec.resolved.toml"):
        (tmp_path / name).touch()
    run = RunDescription(run_id="slow", name="digits", run_dir=tmp_path)
    opened = TrackerFeed(tracker, tmp_path / "metrics.jsonl", run)
    opened.start()
    time.sleep(0.5)  # its first request is on its way
    yield opened
    opened.end("KILLED")
    opened.wait_closed(0.1)


def make_update() -> Callable[[], None]:
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.GELU(), torch.nn.Linear(32, 1))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    x = torch.randn(32, 8)

    def update() -> None:
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return update


def line(update: Callable[[], None], writer: LogWriter, counter: UpdateCounter) -> tuple[float, float]:
    """Do the updates of one line; return the seconds that this thread has computed, and those that others have."""
    own, all_threads = time.thread_time(), time.process_time()
    for _ in range(UPDATES_A_LINE):
        update()
        counter.update += 1
    for key in KEYS:
        writer.add_scalar(key, 0.31)
    writer.flush(counter)
    own = time.thread_time() - own
    return own, time.process_time() - all_threads - own


@pytest.mark.parametrize("server", [5.0, NEVER_S], ids=["answers in 5 s", "never answers"], indirect=True)
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_a_slow_server_changes_an_update_by_less_than_one_percent(
    benchmark: BenchmarkFixture, feed: TrackerFeed, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # else the threads of torch are the others
    update = make_update()
    counter = UpdateCounter(TrainingIteration(0, 0, 0), TrainingIteration(update=10**6), 50, 32)
    told, quiet = LogWriter(MetricsFile(tmp_path / "metrics.jsonl")), LogWriter(MetricsFile(tmp_path / "quiet.jsonl"))
    told.on_written.append(feed.notify)
    sides: dict[str, list[float]] = {"told": [], "quiet": []}
    feeds, started = 0.0, time.monotonic()
    while (passed := time.monotonic() - started) < SECONDS:
        for name, writer in (("told", told), ("quiet", quiet)):
            own, others = line(update, writer, counter)
            sides[name].append(own)
            feeds += others
    benchmark.pedantic(line, args=(update, told, counter), rounds=1)
    torch.set_num_threads(threads)
    told.close()
    quiet.close()

    ratio, share = Timing(sides).ratio("told", "quiet"), feeds / passed
    benchmark.extra_info.update(of_quiet=ratio, feeds_share=share)
    print(f"\nupdates beside a slow server take {ratio:.3f} of their time; the feed computes {share:.4f} of it")
    assert share < 0.01
    assert ratio < 1.01 + SLACK
