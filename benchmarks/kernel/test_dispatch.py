"""The cost of calling a hook: the compiled hook compared with a loop over bound methods, and with pluggy's own call.

One unit of work is one call of `track_after_update_step` with n implementations that each take both of its arguments.
All three are checked to call the same implementations in the same order before they are timed.
"""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable
from typing import Any

import pluggy
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from noether.kernel import hookspecs
from noether.kernel.dispatch import compile_dispatch
from noether.kernel.markers import PROJECT, hookimpl
from noether.kernel.participant import Participant

CALLS, ROUNDS = 5_000, 9
ABOVE_THE_TUPLE = 1.3  # with some implementations; a single one is dominated by the call of the plan itself


class Counts:
    """Implements one hook, and remembers who was called."""

    def __init__(self, number: int, seen: list[int] | None = None) -> None:
        self.number = number
        self.seen = seen

    @hookimpl
    def track_after_update_step(self, update_counter: Any, times: Any) -> None:
        if self.seen is not None:
            self.seen.append(self.number)


def plan(callbacks: list[Counts]) -> Callable[..., Any]:
    participants = [Participant(str(c.number), "counts", c) for c in callbacks]
    call = compile_dispatch(participants).track_after_update_step
    assert call is not None
    return call


def bound_methods(callbacks: list[Counts]) -> Callable[..., Any]:
    methods = tuple(callback.track_after_update_step for callback in callbacks)

    def call(update_counter: Any, times: Any) -> None:
        for method in methods:
            method(update_counter=update_counter, times=times)

    return call


def pluggys(callbacks: list[Counts]) -> Callable[..., Any]:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    for callback in reversed(callbacks):  # pluggy calls what was registered last first
        manager.register(callback)

    def call(update_counter: Any, times: Any) -> None:
        manager.hook.track_after_update_step(update_counter=update_counter, times=times)

    return call


@pytest.mark.parametrize("n", [1, 5, 20])
def test_compiled_hook_beside_bound_methods_and_pluggy(benchmark: BenchmarkFixture, n: int) -> None:
    """Microseconds of a hook call; the plan stays within 1.3 times a loop over bound methods."""
    orders = []
    for make in (plan, bound_methods, pluggys):
        seen: list[int] = []
        make([Counts(number, seen) for number in range(n)])(0, {})
        orders.append(seen)
    assert orders[0] == orders[1] == orders[2] == list(range(n))

    silent = [Counts(number) for number in range(n)]
    calls = {make.__name__: make(silent) for make in (plan, bound_methods, pluggys)}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            seconds[name].append(timeit.timeit(lambda call=call: call(0, {}), number=CALLS) / CALLS)
    micro = {name: statistics.median(values) * 1e6 for name, values in seconds.items()}
    ratio = statistics.median(a / b for a, b in zip(seconds["plan"], seconds["bound_methods"], strict=True))
    benchmark.extra_info |= {**micro, "ratio": ratio}
    print(f"\n{n} implementations: " + ", ".join(f"{name} {value:.2f} us" for name, value in micro.items()))
    benchmark.pedantic(calls["plan"], (0, {}), rounds=100, iterations=100)
    if n > 1:
        assert ratio <= ABOVE_THE_TUPLE


def test_hook_that_nobody_implements_is_not_called_at_all() -> None:
    """An exact count: there is nothing to call."""
    assert compile_dispatch([]).track_after_update_step is None
