"""Timers and traces of hook calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from noether.kernel import hookimpl
from noether.kernel.compile import HookWatch, Timers, print_call, watch_hooks
from noether.kernel.dispatch import compile_dispatch
from noether.kernel.hookspecs import every
from noether.kernel.participant import Participant
from noether.kernel.progress import EarlyStopIteration, TrainingIteration, UpdateCounter


class Counter:
    update = 12


class Quiet:
    def before_training(self) -> None: ...

    def track_after_update_step(self) -> None: ...


class Wrapper:
    @hookimpl(wrapper=True)
    def before_training(self):
        return (yield)


class Stops:
    def before_training(self) -> None:
        raise EarlyStopIteration("enough")


class Fails:
    def before_training(self) -> None:
        raise ZeroDivisionError("division by zero")


wrapped = pytest.mark.parametrize("around", [[], [Wrapper()]], ids=["compiled", "with a wrapper"])
Traced = list[tuple[str, str, Any]]


def participants(*instances: Any) -> list[Participant]:
    return [Participant(type(one).__name__.lower(), "k", one) for one in instances]


def tracing(calls: Traced) -> HookWatch:
    return HookWatch(trace=lambda hook, participant, counter, seconds: calls.append((hook, participant, counter)))


def before_training(*instances: Any, **options: Any) -> Callable[..., Any]:
    call = compile_dispatch(participants(*instances), **options).before_training
    assert call is not None
    return call


@wrapped
def test_timers_count_calls_and_seconds_by_hook_and_id(around: list[Any]) -> None:
    timers: Timers = {}
    call = before_training(*around, Quiet(), watch=HookWatch(timers=timers))
    call(Counter())
    call(Counter())
    calls, seconds = timers["before_training", "quiet"]
    assert calls == 2
    assert seconds > 0
    assert ("before_training", "wrapper") not in timers


@wrapped
def test_a_call_is_measured_although_it_fails(around: list[Any]) -> None:
    timers: Timers = {}
    call = before_training(*around, Fails(), watch=HookWatch(timers=timers))
    with pytest.raises(ZeroDivisionError):
        call(Counter())
    assert timers["before_training", "fails"][0] == 1


@wrapped
def test_trace_takes_each_call_when_it_ends(around: list[Any]) -> None:
    calls: Traced = []
    counter = Counter()
    call = before_training(*around, Stops(), Quiet(), watch=tracing(calls), on_stop=lambda reason: None)
    call(counter)
    outer = [("before_training", "wrapper", counter) for _ in around]
    assert calls == [("before_training", "stops", counter), ("before_training", "quiet", counter), *outer]


def test_hooks_without_an_update_counter_are_traced_without_one() -> None:
    class Plugin:
        @hookimpl
        def run_started(self) -> None: ...

    calls: Traced = []
    plugin = Participant("hello", "hello", Plugin(), is_plugin=True)
    dispatch = compile_dispatch([plugin], watch=tracing(calls))
    assert dispatch.run_started is not None
    dispatch.run_started(run=object())
    assert calls == [("run_started", "hello", None)]


def test_all_that_is_compiled_inside_of_the_block_is_watched() -> None:
    calls: Traced = []
    with watch_hooks(tracing(calls)):
        watched = before_training(Quiet())
    plain = before_training(Quiet())
    plain(Counter())
    assert calls == []
    watched(Counter())
    assert len(calls) == 1


def test_the_periodic_callback_of_a_run_plugin_is_traced_when_it_fires() -> None:
    class Plugin:
        @hookimpl
        @every(updates=2)
        def periodic_callback(self) -> None: ...

    calls: Traced = []
    plugin = Participant("hello", "hello", Plugin(), is_plugin=True)
    after_update = compile_dispatch([plugin], watch=tracing(calls)).after_update
    assert after_update is not None
    counter = UpdateCounter(TrainingIteration(), TrainingIteration(update=4), 4, 1)
    for _ in range(3):
        counter.update += 1
        after_update(counter, None, None, 1)
    hooks = [hook for hook, _, _ in calls]
    assert hooks == ["after_update", "periodic_callback", "after_update", "after_update"]


def test_without_a_watch_no_clock_is_read() -> None:
    call: Any = before_training(Quiet())
    assert not any("clock" in name for name in call.__code__.co_names)


def test_a_call_is_printed_with_callback_update_and_milliseconds(capsys: pytest.CaptureFixture[str]) -> None:
    print_call("track_after_update_step", "online-loss", Counter(), 0.000041)
    print_call("run_started", "hello", None, 0.0012)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "track_after_update_step  online-loss  update 12  0.041 ms",
        "run_started  hello  -  1.200 ms",
    ]


def test_calls_are_counted_for_the_watchdog_only_if_it_asks() -> None:
    class Looks:
        def after_training(self) -> None: ...

    plain, counting = (
        compile_dispatch([Participant("looks", "looks", Looks())], watch=watch).after_training
        for watch in (None, HookWatch(counts=True))
    )
    assert plain is not None
    assert counting is not None
    assert "_calls" not in plain.__globals__
    for _ in range(3):
        counting(None)
    assert counting.__globals__["_calls"] == [3]
