"""A request to end training in a hook: the other implementations are called first, and it is reported once."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pluggy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether.kernel import hookimpl
from noether.kernel.compile import HookWatch, Timers
from noether.kernel.dispatch import compile_dispatch
from noether.kernel.hookspecs import HOOKS
from noether.kernel.participant import Participant
from noether.kernel.progress import EarlyStopIteration


class Counter:
    update = 120


class Calls:
    """Is called, and may raise something then."""

    def __init__(self, name: str, log: list[str], error: Exception | None = None) -> None:
        self.name, self.log, self.error = name, log, error

    def before_training(self) -> str:
        self.log.append(self.name)
        if self.error is not None:
            raise self.error
        return self.name


class Wraps:
    """Is a wrapper, and may raise a stop on its way in or out."""

    def __init__(self, name: str, log: list[str], stops: str = "") -> None:
        self.name, self.log, self.stops = name, log, stops

    def note(self, way: str) -> None:
        self.log.append(f"{self.name} {way}")
        if self.stops == way:
            raise EarlyStopIteration(self.name)

    @hookimpl(wrapper=True)
    def before_training(self) -> Any:
        self.note("in")
        results = yield
        self.note("out")
        return [*results, self.name]


class OldWraps(Wraps):
    """The same in pluggy's older style."""

    @hookimpl(hookwrapper=True)
    def before_training(self) -> Any:
        self.note("in")
        yield
        self.note("out")


def hook(*instances: Any, **options: Any) -> Any:
    call = compile_dispatch([Participant(one.name, "k", one) for one in instances], **options).before_training
    assert call is not None
    return call


def stop(reason: str = "enough") -> EarlyStopIteration:
    return EarlyStopIteration(reason)


around = pytest.mark.parametrize("wrapper", [None, Wraps, OldWraps], ids=["compiled", "wrapper", "hookwrapper"])


def around_them(wrapper: Any) -> list[Any]:
    return [] if wrapper is None else [wrapper("w", [])]


@around
def test_the_others_are_called_before_a_stop_is_raised(wrapper: Any) -> None:
    log: list[str] = []
    call = hook(*around_them(wrapper), Calls("a", log), Calls("b", log, stop()), Calls("c", log))
    with pytest.raises(EarlyStopIteration) as caught:
        call(Counter())
    assert log == ["a", "b", "c"]
    assert caught.value.reason == "enough"
    assert caught.value.__notes__ == ["raised by callback 'b' (kind k) in hook before_training at update 120"]


@around
def test_the_first_reason_is_reported_once_with_its_source(wrapper: Any) -> None:
    log: list[str] = []
    told: list[str] = []
    both = Calls("a", log, stop("first")), Calls("b", log), Calls("c", log, stop("second"))
    call = hook(*around_them(wrapper), *both, on_stop=told.append)
    results = call(Counter())
    assert results == (["b", "w"] if wrapper is Wraps else ["b"])
    assert log == ["a", "b", "c"]
    assert told == ["first (callback 'a')"]


@around
def test_an_error_after_a_stop_counts_for_more(wrapper: Any) -> None:
    told: list[str] = []
    broken = Calls("b", [], ZeroDivisionError("broken"))
    call = hook(*around_them(wrapper), Calls("a", [], stop()), broken, on_stop=told.append)
    with pytest.raises(ZeroDivisionError):
        call(Counter())
    assert told == []
    broken.error = None
    assert call(Counter())
    assert told == ["enough (callback 'a')"]  # that of the second call


@pytest.mark.parametrize("kind", [Wraps, OldWraps])
@pytest.mark.parametrize("way", ["in", "out"])
def test_a_wrapper_that_stops_does_not_prevent_other_calls(kind: Any, way: str) -> None:
    log: list[str] = []
    told: list[str] = []
    wrappers = Wraps("outer", log), kind("inner", log, stops=way), OldWraps("last", log)
    results = hook(*wrappers, Calls("a", log), on_stop=told.append)(Counter())
    left = "inner out" if way == "out" else None
    expected = ["outer in", "inner in", "last in", "a", "last out", left, "outer out"]
    assert log == [line for line in expected if line]
    assert results == ["a", "outer"]
    assert told == ["inner (callback 'inner')"]


def test_a_wrapper_does_not_see_a_stop_of_what_it_wraps() -> None:
    told: list[str] = []
    results = hook(Wraps("w", []), Calls("a", [], stop()), on_stop=told.append)(Counter())
    assert results == ["w"]
    assert told == ["enough (callback 'a')"]


def test_a_wrapper_without_a_yield_on_its_way_is_still_an_error() -> None:
    class Skips:
        name = "skips"

        @hookimpl(wrapper=True)
        def before_training(self) -> Any:
            if self.name == "other":
                yield

    with pytest.raises(RuntimeError) as caught:
        hook(Skips())(Counter())
    assert "yield" in str(caught.value)


def test_a_wrapper_with_two_yields_is_still_an_error() -> None:
    class Twice:
        name = "twice"

        @hookimpl(wrapper=True)
        def before_training(self) -> Any:
            yield
            yield

    with pytest.raises(RuntimeError) as caught:
        hook(Twice())(Counter())
    assert "second" in str(caught.value)


def test_a_stop_of_a_child_comes_out_of_its_parent_after_the_other_children() -> None:
    log: list[str] = []
    told: list[str] = []
    children = hook(Calls("child", log, stop()), Calls("sibling", log))

    class Parent:
        name = "parent"

        def before_training(self, update_counter: Any) -> None:
            children(update_counter)

    hook(Parent(), Calls("next", log), on_stop=told.append)(Counter())
    assert log == ["child", "sibling", "next"]
    assert told == ["enough (callback 'child')"]


def test_a_hook_within_the_same_hook_leaves_the_outer_stop_alone() -> None:
    told: list[str] = []
    calls: list[Any] = []

    class Again:
        name = "again"
        depth = 0

        def before_training(self, update_counter: Any) -> None:
            self.depth += 1
            if self.depth == 1:
                told.append("before")
                calls[0](update_counter)
                told.append("after")

    class Inner(Calls):
        def before_training(self) -> str:
            self.log.append(self.name)
            if len(self.log) == 1:  # in the outer call
                raise stop("outer")
            return self.name

    calls.append(hook(Wraps("w", []), Inner("inner", []), Again(), on_stop=told.append))
    calls[0](Counter())
    assert told == ["before", "after", "outer (callback 'inner')"]


def test_a_stop_keeps_no_argument_of_its_hook_alive() -> None:
    class Batch:
        pass

    batch = Batch()
    gone = weakref.ref(batch)
    kept: list[EarlyStopIteration] = []

    class Raises:
        def track_after_update_step(self, times: Any) -> None:
            kept.append(stop())
            raise kept[0]

    call = compile_dispatch([Participant("a", "k", Raises())], on_stop=lambda reason: None).track_after_update_step
    assert call is not None
    gc.disable()
    try:
        call(Counter(), batch)
        del batch
        assert gone() is None
    finally:
        gc.enable()


@around
def test_the_others_are_timed_although_one_stops(wrapper: Any) -> None:
    timers: Timers = {}
    call = hook(
        *around_them(wrapper),
        Calls("a", [], stop()),
        Calls("b", []),
        watch=HookWatch(timers=timers),
        on_stop=lambda _: None,
    )
    call(Counter())
    assert timers["before_training", "b"][0] == 1


@given(st.lists(st.sampled_from(["quiet", "stops", "wraps", "stops in", "stops out"]), min_size=1, max_size=7))
def test_every_participant_is_called_although_one_stops(kinds: list[str]) -> None:
    log: list[str] = []
    told: list[str] = []
    instances: list[Any] = []
    for place, kind in enumerate(kinds):
        name = f"{place}"
        if kind in ("quiet", "stops"):
            instances.append(Calls(name, log, stop(name) if kind == "stops" else None))
        else:
            instances.append(Wraps(name, log, kind.partition(" ")[2]))
    hook(*instances, on_stop=told.append)(Counter())
    called = {line.split()[0] for line in log}
    assert called == {str(place) for place in range(len(kinds))}
    assert len(told) == any(kind.startswith("stops") for kind in kinds)


def test_every_hook_goes_on_after_a_stop() -> None:
    for name in HOOKS.keys() - {"periodic_callback"}:
        log: list[str] = []
        told: list[str] = []

        def stops(self: Any, log: list[str] = log) -> None:
            log.append("called")
            raise stop()

        kind = type("Stops", (), {name: stops})
        call = getattr(compile_dispatch([Participant(i, "k", kind()) for i in "ab"], on_stop=told.append), name)
        call(**dict.fromkeys(HOOKS[name], 0))
        assert log == ["called", "called"], name
        assert told == ["enough (callback 'a')"], name


def test_stops_do_not_reach_pluggy() -> None:
    """A hookwrapper sees an outcome without exceptions."""
    seen: list[pluggy.Result[Any]] = []

    class Looks:
        name = "looks"

        @hookimpl(hookwrapper=True)
        def before_training(self) -> Any:
            seen.append((yield))

    hook(Looks(), Calls("a", [], stop()), on_stop=lambda _: None)(Counter())
    assert seen[0].exception is None
