"""Interleaved timing: several ways to do one thing, in turns within one process.

Seconds are by default those that this thread has computed for: the machine's other users add little to them. The
ratio of two ways is the median of the rounds' ratios, because both sides of a round meet the same machine.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, by name of the way, one value a round.

    Attributes:
        seconds: The seconds.
    """

    seconds: dict[str, list[float]]

    def ratio(self, one: str, other: str) -> float:
        """Return the median of the rounds' ratios of two ways."""
        return statistics.median(a / b for a, b in zip(self.seconds[one], self.seconds[other], strict=True))

    def micro(self, name: str) -> float:
        """Return the median microseconds of a way."""
        return statistics.median(self.seconds[name]) * 1e6

    def facts(self) -> dict[str, float]:
        """Return the median microseconds of every way, for `extra_info`."""
        return {f"{name}_us": self.micro(name) for name in self.seconds}


def interleaved(
    ways: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 15,
    calls: int = 1,
    clock: Callable[[], float] = time.thread_time,
) -> Timing:
    """Time ways in turns.

    Args:
        ways: What to call, by name.
        rounds: Measured rounds.
        calls: Calls of each way in a round; the seconds are those of one.
        clock: Seconds; `time.perf_counter` for a way that waits, `time.process_time` for one with threads.
    """
    return in_turns({name: partial(timed, call, calls, clock) for name, call in ways.items()}, rounds=rounds)


def in_turns(ways: Mapping[str, Callable[[], float]], *, rounds: int = 15) -> Timing:
    """Call ways that measure themselves in turns; the first of one round is the last of the next.

    Args:
        ways: Return seconds, by name.
        rounds: Measured rounds; one more comes before them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways.items())
    for measured in range(rounds + 1):
        for name, way in order:
            took = way()
            if measured:
                seconds[name].append(took)
        order.reverse()
    return Timing(seconds)


def timed(call: Callable[[], object], calls: int = 1, clock: Callable[[], float] = time.thread_time) -> float:
    """Return the seconds of one call, measured over some."""
    started = clock()
    for _ in range(calls):
        call()
    return (clock() - started) / calls


WITH_BYTECODE = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""The environment of an installed package: without bytecode, each process would compile the whole package."""


def processor_seconds(folder: Path, *arguments: str) -> float:
    """Run Python with these arguments in a folder; return the processor time of that process and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, cwd=folder, env=WITH_BYTECODE)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
