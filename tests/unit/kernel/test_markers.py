"""The interval of a run plugin's periodic callback."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import noether
from noether.errors import PluginError
from noether.kernel.dispatch import compile_dispatch
from noether.kernel.participant import Participant
from noether.kernel.progress import TrainingIteration, UpdateCounter

UPDATES_PER_EPOCH, BATCH = 5, 4


def plugin(function: Any) -> Participant:
    return Participant("x", "x", SimpleNamespace(periodic_callback=function), is_plugin=True)


def recording(log: list[Any], **interval: int) -> Participant:
    @noether.hookimpl
    @noether.every(**interval)
    def periodic_callback(interval_type, update_counter):
        log.append((interval_type, update_counter.update))

    return plugin(periodic_callback)


def counter() -> UpdateCounter:
    return UpdateCounter(TrainingIteration(0, 0, 0), TrainingIteration(epoch=9), UPDATES_PER_EPOCH, BATCH)


def train(dispatch: Any, updates: int, *, ask_always: bool) -> None:
    """Call the hooks as a loop does: in every round, or only in those that are due."""
    progress = counter()
    due = dispatch.next_due_update(progress)
    for _ in range(updates):
        progress.update += 1
        progress.sample += BATCH
        full = progress.is_full_epoch
        progress.epoch += full
        if not ask_always and progress.update < due:
            continue
        for hook in (dispatch.after_update, dispatch.after_epoch if full else None):
            if hook is not None:
                hook(update_counter=progress, trainer_model=None, data_iter=None, batch_size=BATCH)
        due = dispatch.next_due_update(progress)


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ({"epochs": 2}, [("epoch", 10), ("epoch", 20)]),
        ({"updates": 7}, [("update", 7), ("update", 14), ("update", 21)]),
        ({"samples": 30}, [("sample", 8), ("sample", 15), ("sample", 23)]),
    ],
)
def test_periodic_callback_of_a_plugin_is_called_where_its_interval_fires(
    interval: dict[str, int], expected: list[tuple[str, int]]
):
    log: list[Any] = []
    train(compile_dispatch([recording(log, **interval)]), 24, ask_always=True)
    assert log == expected


@given(st.sampled_from(["epochs", "updates", "samples"]), st.integers(1, 40))
def test_skipping_rounds_that_are_not_due_skips_no_call(unit: str, n: int):
    asked, skipped = [], []
    train(compile_dispatch([recording(asked, **{unit: n})]), 30, ask_always=True)
    train(compile_dispatch([recording(skipped, **{unit: n})]), 30, ask_always=False)
    assert skipped == asked


def test_periodic_callback_of_a_plugin_is_called_only_when_due():
    dispatch = compile_dispatch([recording([], updates=2)])
    assert dispatch.after_update is not None
    assert dispatch.after_update_always is None
    assert dispatch.after_epoch is None


def test_evaluation_calls_it_once_whatever_its_interval():
    log: list[Any] = []
    call = compile_dispatch([recording(log, epochs=2)]).at_eval
    assert call is not None
    call(update_counter=counter(), trainer_model=None, data_iter=None, batch_size=BATCH)
    assert log == [("eval", 0)]


def test_order_of_the_two_decorators_does_not_matter():
    @noether.every(updates=3)
    @noether.hookimpl(trylast=True)
    def periodic_callback(): ...

    assert compile_dispatch([plugin(periodic_callback)]).order("after_update") == ["x"]


def test_plugin_without_an_interval_is_refused():
    @noether.hookimpl
    def periodic_callback(): ...

    with pytest.raises(PluginError) as caught:
        compile_dispatch([plugin(periodic_callback)])
    assert "@noether.every" in str(caught.value)


def test_interval_of_a_component_belongs_into_the_spec():
    class Callback:
        @noether.every(epochs=1)
        def periodic_callback(self): ...

    with pytest.raises(PluginError) as caught:
        compile_dispatch([Participant("c", "c", Callback())])
    assert "callback 'c'" in str(caught.value)


@pytest.mark.parametrize(
    "interval", [{}, {"epochs": 1, "updates": 2}, {"epochs": 0}, {"updates": 1.5}, {"samples": True}]
)
def test_every_takes_exactly_one_positive_whole_number(interval: dict[str, Any]):
    with pytest.raises(PluginError) as caught:
        noether.every(**interval)
    assert "@noether.every" in str(caught.value)
