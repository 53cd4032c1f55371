"""The cost of calling a hook: the compiled hook compared with a loop over bound methods, and with pluggy's own call.

One unit of work is one call of `track_after_update_step` with n implementations that each take both of its arguments.
All three are checked to call the same implementations in the same order before they are timed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pluggy
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.timing import interleaved
from noether.kernel import hookspecs
from noether.kernel.dispatch import compile_dispatch
from noether.kernel.hookspecs import PROJECT, hookimpl
from noether.kernel.participant import Participant

CALLS = 20_000
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


@pytest.mark.parametrize("n", [1, 5, 20, 100])
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
    timing = interleaved({name: partial(call, 0, {}) for name, call in calls.items()}, calls=max(100, CALLS // n))
    ratio = timing.ratio("plan", "bound_methods")
    benchmark.extra_info |= {**timing.facts(), "ratio": ratio}
    print(f"\n{n} implementations: " + ", ".join(f"{name} {value:.2f}" for name, value in timing.facts().items()))
    benchmark.pedantic(calls["plan"], (0, {}), rounds=100, iterations=100)
    if n > 1:
        assert ratio <= ABOVE_THE_TUPLE


def test_marginal_cost_of_a_callback(benchmark: BenchmarkFixture) -> None:
    """Microseconds that one more callback with an empty hook costs, beside one more bound method."""
    few, many = ([Counts(number) for number in range(n)] for n in (1, 101))
    ways = {
        f"{make.__name__} {len(each)}": partial(make(each), 0, {})
        for make in (plan, bound_methods)
        for each in (few, many)
    }
    timing = interleaved(ways, calls=500)
    each = {
        make.__name__: (timing.micro(f"{make.__name__} 101") - timing.micro(f"{make.__name__} 1")) / 100
        for make in (plan, bound_methods)
    }
    benchmark.extra_info |= {"us_a_hook": each["plan"], "ratio": each["plan"] / each["bound_methods"]}
    print(f"\none more empty hook: {each['plan']:.3f} us, one more bound method {each['bound_methods']:.3f} us")
    benchmark.pedantic(ways["plan 101"], rounds=100)


def test_hook_that_nobody_implements_is_not_called_at_all() -> None:
    """An exact count: there is nothing to call."""
    assert compile_dispatch([]).track_after_update_step is None
