"""End of training at a point, or after a duration."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from noether.core.callbacks.early_stoppers import FixedEarlyStopperCallback, FixedEarlyStopperCallbackConfig
from noether.kernel.dispatch import compile_dispatch
from noether.kernel.intervals import NEVER
from noether.kernel.participant import Participant
from noether.kernel.progress import EarlyStopIteration
from noether.testing import make_counter, make_model, make_trainer
from noether.training.trainers.base import BaseTrainer


class Clock:
    """Stands still until a test moves it."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> BaseTrainer:
    return make_trainer(tmp_path_factory.mktemp("run"))


def stopper(trainer: BaseTrainer, clock: Clock | None = None, **point: Any) -> FixedEarlyStopperCallback:
    config = FixedEarlyStopperCallbackConfig.model_validate(point)
    return FixedEarlyStopperCallback(config, clock=clock or Clock(), **trainer.callback_default_kwargs(make_model()))


def begins(callback: FixedEarlyStopperCallback, update: int = 0) -> bool:
    """Return whether it lets training begin after `update` updates."""
    try:
        callback.before_training(update_counter=make_counter(update=update))
    except EarlyStopIteration:
        return False
    return True


def hooks_of(callback: FixedEarlyStopperCallback) -> Any:
    return compile_dispatch([Participant("stopper", "fixed-early-stopper", callback)])


def end_round(callback: FixedEarlyStopperCallback, update: int) -> None:
    """Call the hooks of a round in which something is due."""
    counter, hooks = make_counter(update=update), hooks_of(callback)
    hooks.after_update(counter, None, None, 4)
    if counter.is_full_epoch:
        hooks.after_epoch(counter, None, None, 4)


POINTS = [
    ({"stop_at_update": 9}, 9),
    ({"stop_at_epoch": 2}, 12),  # of six updates
    ({"stop_at_sample": 36}, 9),  # in updates of four samples
    ({"stop_at_sample": 37}, 10),
]


@pytest.mark.parametrize(("point", "last"), POINTS, ids=str)
def test_training_ends_with_the_update_that_reaches_the_point(
    trainer: BaseTrainer, point: dict[str, Any], last: int
) -> None:
    callback = stopper(trainer, **point)
    assert callback.next_due_update(make_counter(update=last - 1)) == last
    assert begins(callback, last - 1)
    end_round(callback, last - 1)
    with pytest.raises(EarlyStopIteration) as caught:
        end_round(callback, last)
    ((name, value),) = point.items()
    assert caught.value.reason == f"{name} = {value} is reached"


@pytest.mark.parametrize(("point", "last"), POINTS, ids=str)
def test_a_run_that_begins_at_the_point_or_behind_it_makes_no_update(
    trainer: BaseTrainer, point: dict[str, Any], last: int
) -> None:
    callback = stopper(trainer, **point)
    assert begins(callback, last - 1)
    assert not begins(callback, last)
    assert not begins(callback, last + 1)


def test_only_one_that_goes_by_the_clock_is_called_at_every_update(trainer: BaseTrainer) -> None:
    at_update, by_clock = hooks_of(stopper(trainer, stop_at_update=9)), hooks_of(stopper(trainer, stop_after_seconds=1))
    assert at_update.track_after_update_step is None
    assert at_update.after_update_always is None
    assert by_clock.track_after_update_step is not None
    assert by_clock.after_update_always is None  # which would cost more than the look at the clock
    assert by_clock.next_due_update(make_counter()) == NEVER


def test_nothing_ends_an_evaluation(trainer: BaseTrainer) -> None:
    for point in ({"stop_at_update": 1}, {"stop_after_seconds": 1}):
        hooks_of(stopper(trainer, **point)).at_eval(make_counter(update=1), None, None, 4)


def test_time_counts_from_the_begin_of_training(trainer: BaseTrainer) -> None:
    clock = Clock()
    callback = stopper(trainer, clock, stop_after_seconds=60.0)
    clock.now += 100.0  # loading data, compiling
    assert begins(callback)
    tracked = hooks_of(callback).track_after_update_step
    clock.now += 59.5
    tracked(update_counter=make_counter(update=1), times={})
    clock.now += 0.5
    with pytest.raises(EarlyStopIteration) as stop:
        tracked(update_counter=make_counter(update=2), times={})
    assert "stop_after_seconds = 60.0" in str(stop.value)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(1, 120))
def test_time_adds_up_over_sessions_wherever_they_are_cut(trainer: BaseTrainer, spans: list[int], limit: int) -> None:
    state: dict[str, Any] = {"seconds": 0.0}
    totals = [sum(spans[:end]) for end in range(len(spans) + 1)]
    for number, (before, after) in enumerate(pairwise(totals)):
        clock = Clock()
        clock.now = 7919.0 * number  # another machine, or started anew: the origin means nothing
        callback = stopper(trainer, clock, stop_after_seconds=float(limit))
        callback.load_state_dict(state)
        assert begins(callback, update=number) == (before < limit)
        clock.now += after - before
        assert callback.elapsed_seconds == after
        state = callback.state_dict() or {}


def test_a_second_training_of_the_same_callback_goes_on_counting(trainer: BaseTrainer) -> None:
    clock = Clock()
    callback = stopper(trainer, clock, stop_after_seconds=60.0)
    for _ in range(2):
        assert begins(callback)
        clock.now += 25.0
        callback.close()
        clock.now += 100.0  # between the trainings
    assert callback.state_dict() == {"seconds": 50.0}


def test_one_that_needs_no_clock_keeps_no_state(trainer: BaseTrainer) -> None:
    assert stopper(trainer, stop_at_update=1).state_dict() is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "found none"),
        ({"stop_at_epoch": 1, "stop_after_seconds": 5.0}, "found stop_at_epoch and stop_after_seconds"),
        ({"stop_at_update": 0}, "greater than or equal to 1"),
        ({"stop_after_seconds": 0.0}, "greater than 0"),
        ({"stop_after_seconds": float("nan")}, "finite number"),
        ({"stop_at_update": 5, "every_n_epochs": 1}, "found every_n_epochs=1"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        FixedEarlyStopperCallbackConfig.model_validate(settings)
    assert message in str(error.value)
