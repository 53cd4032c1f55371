"""Exact counts of an update of `noether run`, by number of callbacks, tensors and metrics.

One unit of work is one update of the tiny problem, between boundaries unless a test says otherwise. The obvious version
is the loop by hand. The counts do not depend on the machine, so the gate lets none of them grow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.counting import SPAN, Calls, tensor_counts, warmed
from benchmarks.tiny import DRAWN, PROBE, ManyTensors, bare_run, kind, our_run, write_data
from noether.core.callbacks.base import CallbackBase, CallBackBaseConfig
from noether.core.callbacks.periodic import PeriodicCallback
from noether.kernel.hookspecs import HOOKS

IDLE, HOT = (0, 100), (0, 1, 10, 100)
TENSORS = (1, 100, 5000)
METRICS = (1, 100, 1000)


class Idle(PeriodicCallback):
    """Overrides nothing that an update calls."""

    def periodic_callback(self, **_: Any) -> None:
        """Do nothing."""


class Hot(CallbackBase):
    """Overrides one hook of an update."""

    def track_after_update_step(self, *, update_counter: Any, times: Any) -> None:
        """Do nothing."""


class LogsConfig(CallBackBaseConfig):
    """Number of metrics to log."""

    metrics: int = 1


class Logs(PeriodicCallback):
    """Logs many metrics.

    Args:
        callback_config: Their number.
        parts: The parts of the run.
    """

    def __init__(self, callback_config: LogsConfig, **parts: Any) -> None:
        super().__init__(callback_config, **parts)
        self.names = [f"many/{number}" for number in range(callback_config.metrics)]

    def periodic_callback(self, **_: Any) -> None:
        for name in self.names:
            self.writer.add_scalar(name, 0.5)


@pytest.fixture(autouse=True)
def _data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)


def several(callback: type, number: int, **options: Any) -> list[dict[str, Any]]:
    return [{"kind": kind(callback), "id": f"{callback.__name__.lower()}-{each}"} | options for each in range(number)]


def test_an_update(benchmark: BenchmarkFixture) -> None:
    """Python calls, hook calls, tensor operations, allocations and reads, with the default callbacks."""
    ours, bare = warmed(our_run()), warmed(bare_run())
    calls, theirs = Calls(ours), Calls(bare)
    counted, by_hand = tensor_counts(ours), tensor_counts(bare)
    counts = {"python calls above the bare loop": calls.total - PROBE - (theirs.total - DRAWN)}
    counts |= {"hook calls": calls.to(HOOKS) - 1}
    counts |= {f"{name} above the bare loop": round(counted[name] - by_hand[name], 2) for name in counted}
    benchmark.extra_info |= {"counts": counts, "calls": calls.table()}
    benchmark.pedantic(ours, ({64: lambda: None},), rounds=1)
    print(f"\nan update: {counts}")


def test_an_update_that_logs(benchmark: BenchmarkFixture) -> None:
    """The same for a boundary, if each update logs the default metrics."""
    quiet, logging = warmed(our_run()), warmed(our_run(log_every_n_updates=1, track_every_n_updates=1))
    calls, without = Calls(logging), Calls(quiet)
    counted, between = tensor_counts(logging), tensor_counts(quiet)
    counts = {"python calls of the boundary": round(calls.total - without.total, 2)}
    counts |= {"hook calls of the boundary": round(calls.to(HOOKS) - without.to(HOOKS), 2)}
    counts |= {f"{name} of the boundary": round(counted[name] - between[name], 2) for name in counted}
    benchmark.extra_info |= {"counts": counts, "calls": calls.table()}
    benchmark.pedantic(logging, ({64: lambda: None},), rounds=1)
    print(f"\nan update that logs: {counts}")


def test_callbacks(benchmark: BenchmarkFixture) -> None:
    """A callback that overrides nothing hot costs no call; each that does, one."""
    counts = {}
    warmed(our_run(callbacks=several(Hot, 1)))
    for number in IDLE:
        idle = our_run(callbacks=several(Idle, number, every_n_updates=SPAN[1]))
        counts[f"{number} idle callbacks"] = Calls(idle).total - PROBE
    for number in HOT:
        hot = our_run(callbacks=several(Hot, number))
        counts[f"{number} hot callbacks"] = Calls(hot).total - PROBE
    idle_calls = counts["100 idle callbacks"] - counts["0 idle callbacks"]
    benchmark.extra_info |= {"counts": counts, "idle_calls": idle_calls}
    benchmark.pedantic(counts.copy, rounds=1)
    print(f"\ncalls of an update: {counts}")
    assert idle_calls == 0
    assert counts["100 hot callbacks"] - counts["10 hot callbacks"] == 90


def test_tensors(benchmark: BenchmarkFixture) -> None:
    """Nothing that we do for an update grows with the number of parameters."""
    counts = {}
    for number in TENSORS:
        span = (2, 4) if number > 1000 else SPAN
        ours = our_run(model={"kind": kind(ManyTensors), "tensors": number})
        bare = bare_run(lambda number=number: ManyTensors(number))
        if number == 1:
            warmed(ours)
        counts[f"{number} tensors"] = Calls(ours, *span).total - PROBE - (Calls(bare, *span).total - DRAWN)
    growth = max(counts.values()) - counts["1 tensors"]
    benchmark.extra_info |= {"counts": counts, "growth": growth}
    benchmark.pedantic(bare, ({4: lambda: None},), rounds=1)
    print(f"\ncalls of an update above the bare loop: {counts}")
    assert growth == 0


def test_metrics(benchmark: BenchmarkFixture) -> None:
    """The calls of an update that logs n metrics, for each of them."""
    counts = {}
    for number in METRICS:
        logging = our_run(callbacks=several(Logs, 1, every_n_updates=1, metrics=number))
        if number == 1:
            warmed(logging)
        counts[f"{number} metrics, for each"] = round(Calls(logging, 4, 12).total / number, 2)
    benchmark.extra_info["counts"] = counts
    benchmark.pedantic(logging, ({12: lambda: None},), rounds=1)
    print(f"\ncalls of an update: {counts}")
