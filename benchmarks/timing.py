"""Interleaved timing: several ways to do one thing, in turns within one process.

Seconds are by default those that this thread has computed for: the machine's other users add little to them. The
ratio of two ways is the median of the rounds' ratios, because both sides of a round meet the same machine. Where those
vary, more rounds are measured. The garbage collector leaves alone what earlier tests have made.
"""

from __future__ import annotations

import gc
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

PRECISION = 0.01
"""Standard error of a ratio, as a share of it, with which a measurement ends."""
BUDGET = 5.0
"""Seconds after which it ends in any case."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, by name of the way, one value a round.

    Attributes:
        seconds: The seconds.
    """

    seconds: dict[str, list[float]]

    def ratios(self, one: str, other: str) -> list[float]:
        """Return the ratio of two ways in each round."""
        return [a / b for a, b in zip(self.seconds[one], self.seconds[other], strict=True)]

    def ratio(self, one: str, other: str) -> float:
        """Return the median of the rounds' ratios of two ways."""
        return statistics.median(self.ratios(one, other))

    def error(self, one: str, other: str) -> float:
        """Return the standard error of the ratio of two ways, as a share of it."""
        ratios = self.ratios(one, other)
        low, middle, high = statistics.quantiles(ratios, n=4)
        return 0.93 * (high - low) / len(ratios) ** 0.5 / middle  # of a median, by the quartiles

    def micro(self, name: str) -> float:
        """Return the median microseconds of a way."""
        return statistics.median(self.seconds[name]) * 1e6

    def above(self, one: str, other: str) -> float:
        """Return the microseconds that a way takes beyond another one, at the speed of the quickest round."""
        return (self.ratio(one, other) - 1) * min(self.seconds[other]) * 1e6

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
        rounds: Measured rounds, at least.
        calls: Calls of each way in a round; the seconds are those of one.
        clock: Seconds; `time.perf_counter` for a way that waits, `time.process_time` for one with threads.
    """
    return in_turns({name: partial(timed, call, calls, clock) for name, call in ways.items()}, rounds=rounds)


def in_turns(ways: Mapping[str, Callable[[], float]], *, rounds: int = 15) -> Timing:
    """Call ways that measure themselves in turns; the first of one round is the last of the next.

    It goes on until the ratios of all ways to the first one are precise, or the budget of seconds is spent.

    Args:
        ways: Return seconds, by name.
        rounds: Measured rounds, at least; one more comes before them.
    """
    timing = Timing({name: [] for name in ways})
    order, first = list(ways.items()), next(iter(ways))
    ends, measured = time.monotonic() + BUDGET, -1
    with undisturbed():
        while measured < rounds or (
            time.monotonic() < ends and any(timing.error(name, first) > PRECISION for name in ways)
        ):
            took = {name: way() for name, way in order}
            order.reverse()
            measured += 1
            if measured:
                for name, seconds in took.items():
                    timing.seconds[name].append(seconds)
    return timing


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the garbage collector from what is there already: it would run the longer, the more tests came before."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def timed(call: Callable[[], object], calls: int = 1, clock: Callable[[], float] = time.thread_time) -> float:
    """Return the seconds of one call, measured over some."""
    started = clock()
    for _ in range(calls):
        call()
    return (clock() - started) / calls


PROCESS = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""The environment of an installed package: without bytecode, each process would compile the whole package."""
PROCESS["OMP_NUM_THREADS"] = "1"  # threads that wait for each other compute as long as they wait


def processor_seconds(folder: Path, *arguments: str) -> float:
    """Run Python with these arguments in a folder; return the processor time of that process and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, cwd=folder, env=PROCESS)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
