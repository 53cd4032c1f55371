"""End of training when a metric no longer improves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from noether.config.metric_facts import UnknownDirectionError
from noether.core.callbacks.early_stoppers import MetricEarlyStopperCallback, MetricEarlyStopperCallbackConfig
from noether.kernel.progress import EarlyStopIteration
from noether.metrics.log import MissingMetricError
from noether.testing import make_callback, make_counter, make_trainer
from noether.training.trainers.base import BaseTrainer

KEY = "loss/test/total"
NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> BaseTrainer:
    return make_trainer(tmp_path_factory.mktemp("run"))


def stopper(trainer: BaseTrainer, patience: int = 1, **settings: Any) -> MetricEarlyStopperCallback:
    table = {"kind": "metric-early-stopper", "every_n_epochs": 1, "metric_key": KEY, "patience": patience}
    callback = make_callback({**table, **settings}, trainer)
    assert isinstance(callback, MetricEarlyStopperCallback)
    return callback


def stops(callback: MetricEarlyStopperCallback, value: float, interval_type: Any = "epoch") -> bool:
    """Log a value in a round of its own and return whether the callback ends training."""
    callback.writer.add_scalar(callback.metric_key, value)
    try:
        callback.periodic_callback(interval_type=interval_type, update_counter=make_counter())
    except EarlyStopIteration:
        return True
    finally:
        callback.writer.discard()
    return False


def stopped_at(callback: MetricEarlyStopperCallback, values: Sequence[float]) -> int | None:
    """Return the number of the interval, from 1, at which training ends."""
    return next((number for number, value in enumerate(values, start=1) if stops(callback, value)), None)


@pytest.mark.parametrize(
    ("values", "interval"),
    [
        ([3.0, 2.0, 1.0, 0.0], None),
        ([1.0, 2.0, 2.0], None),
        ([1.0, 2.0, 2.0, 2.0], 4),
        ([1.0, 2.0, 2.0, 0.5, 2.0, 2.0], None),
        ([1.0, 2.0, 2.0, 0.5, 2.0, 2.0, 2.0], 7),
        ([1.0, 1.0, 1.0, 1.0], 4),
        ([3.0, 5.0, 4.0, 3.5], 4),
    ],
    ids=["better", "tolerated", "one-more", "better-in-time", "counted-anew", "equal-is-not-better", "than-the-best"],
)
def test_patience_is_the_number_of_intervals_without_improvement_that_are_tolerated(
    trainer: BaseTrainer, values: list[float], interval: int | None
) -> None:
    assert stopped_at(stopper(trainer, patience=2), values) == interval


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_value_that_is_not_finite_never_improves(trainer: BaseTrainer, value: float) -> None:
    assert stopped_at(stopper(trainer), [1.0, value, value]) == 3
    assert stopped_at(stopper(trainer), [value, 1.0, value, 0.5]) is None


def test_a_metric_that_was_never_finite_ends_training(trainer: BaseTrainer) -> None:
    callback = stopper(trainer)
    assert not stops(callback, NAN)
    callback.writer.add_scalar(KEY, NAN)
    with pytest.raises(EarlyStopIteration) as caught:
        callback.periodic_callback(interval_type="epoch", update_counter=make_counter())
    callback.writer.discard()
    assert caught.value.reason == f"{KEY} has not improved for 2 intervals, patience = 1; it was never finite"


def test_the_reason_tells_metric_patience_and_best_value(trainer: BaseTrainer) -> None:
    callback = stopper(trainer)
    assert stopped_at(callback, [0.25, 1.0]) is None
    callback.writer.add_scalar(KEY, 1.0)
    with pytest.raises(EarlyStopIteration) as caught:
        callback.periodic_callback(interval_type="epoch", update_counter=make_counter())
    callback.writer.discard()
    assert caught.value.reason == f"{KEY} has not improved for 2 intervals, patience = 1; its best value is 0.25"


def test_evaluation_ends_nothing_and_counts_for_nothing(trainer: BaseTrainer) -> None:
    callback = stopper(trainer)
    before = callback.state_dict()
    assert not any(stops(callback, 1.0, "eval") for _ in range(5))
    assert callback.state_dict() == before


@pytest.mark.parametrize(
    ("settings", "rising_is_better"),
    [
        ({}, False),
        ({"metric_key": "accuracy/test"}, True),
        ({"higher_is_better": True}, True),
        ({"metric_key": "accuracy/test", "higher_is_better": False}, False),
    ],
    ids=str,
)
def test_the_direction_is_the_metric_s_unless_it_is_set(
    trainer: BaseTrainer, settings: dict[str, Any], rising_is_better: bool
) -> None:
    assert (stopped_at(stopper(trainer, **settings), [1.0, 2.0, 3.0, 4.0]) is None) == rising_is_better
    assert (stopped_at(stopper(trainer, **settings), [4.0, 3.0, 2.0, 1.0]) is None) == (not rising_is_better)


def test_a_metric_of_unknown_direction_is_refused_when_it_is_built(trainer: BaseTrainer) -> None:
    with pytest.raises(UnknownDirectionError) as caught:
        stopper(trainer, metric_key="temperature")
    assert "'temperature'" in caught.value.message
    assert "higher_is_better = true" in (caught.value.hint or "")


def test_a_metric_that_was_not_logged_is_an_error_that_lists_those_of_the_round(trainer: BaseTrainer) -> None:
    callback = stopper(trainer)
    callback.writer.add_scalar("loss/train/total", 1.0)
    with pytest.raises(MissingMetricError) as caught:
        callback.periodic_callback(interval_type="epoch", update_counter=make_counter())
    assert "loss/train/total" in str(caught.value)
    callback.writer.discard()


@pytest.mark.parametrize("patience", [0, -1, 1.5, None])
def test_patience_is_a_whole_number_of_at_least_one(patience: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        MetricEarlyStopperCallbackConfig(metric_key=KEY, patience=patience)
    assert [error["loc"] for error in caught.value.errors()] == [("patience",)]


def test_it_says_which_metric_it_reads_and_compares() -> None:
    config = MetricEarlyStopperCallbackConfig(metric_key=KEY, patience=1)
    told = MetricEarlyStopperCallbackConfig(metric_key=KEY, patience=1, higher_is_better=False)
    assert MetricEarlyStopperCallback.consumed_metrics(config) == (KEY,)
    assert MetricEarlyStopperCallback.compared_metrics(config) == (KEY,)
    assert MetricEarlyStopperCallback.compared_metrics(told) == ()


def test_a_run_that_was_stopped_makes_no_further_update_unless_patience_was_raised(trainer: BaseTrainer) -> None:
    first = stopper(trainer)
    assert stopped_at(first, [1.0, 1.0, 1.0]) == 3
    again, patient = stopper(trainer), stopper(trainer, patience=2)
    again.load_state_dict(first.state_dict())
    patient.load_state_dict(first.state_dict())
    with pytest.raises(EarlyStopIteration):
        again.before_training(update_counter=make_counter())
    patient.before_training(update_counter=make_counter())
    assert stops(patient, 1.0)


def reference(values: Sequence[float], patience: int) -> int | None:
    """Return the interval at which training ends, straight from the definition: lower is better."""
    for end in range(1, len(values) + 1):
        last = values[:end][-(patience + 1) :]
        before = [value for value in values[: end - len(last)] if math.isfinite(value)]
        worse = not any(math.isfinite(value) and value < min(before, default=INF) for value in last)
        if len(last) > patience and worse:
            return end
    return None


measured = st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0, NAN, INF, -INF]), max_size=14)


@given(values=measured, patience=st.integers(1, 4), data=st.data())
def test_it_ends_as_defined_and_a_resume_at_any_interval_changes_nothing(
    trainer: BaseTrainer, values: list[float], patience: int, data: st.DataObject
) -> None:
    expected = reference(values, patience)
    assert stopped_at(stopper(trainer, patience), values) == expected
    cut = data.draw(st.integers(0, len(values) if expected is None else expected - 1))
    first, second = stopper(trainer, patience), stopper(trainer, patience)
    assert stopped_at(first, values[:cut]) is None
    second.load_state_dict(first.state_dict())
    second.before_training(update_counter=make_counter())
    rest = stopped_at(second, values[cut:])
    assert (None if rest is None else cut + rest) == expected
