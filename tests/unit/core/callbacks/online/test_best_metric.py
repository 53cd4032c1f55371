"""Metrics at the best value of another metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from noether.config.metric_facts import MetricFacts, UnknownDirectionError
from noether.core.callbacks.online import BestMetricCallback, BestMetricCallbackConfig
from noether.testing import make_callback, make_counter, make_model, make_trainer
from noether.training.trainers.base import BaseTrainer

SOURCE, TARGET, OPTIONAL = "loss/val/total", "loss/test/total", "accuracy/test/label"
AT_BEST, OPTIONAL_AT_BEST = (f"{key}/at_best/{SOURCE}" for key in (TARGET, OPTIONAL))

few = st.sampled_from([0.0, 1.0, 2.0, math.nan, math.inf, -math.inf])  # so that there are ties
rounds = st.lists(st.tuples(few | st.floats(width=32), st.integers(0, 99), st.none() | st.integers(0, 99)), max_size=10)


MODEL = make_model()  # none of the callbacks here looks at it


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> BaseTrainer:
    return make_trainer(tmp_path_factory.mktemp("run"))


def best_metric(trainer: BaseTrainer, **settings: Any) -> BestMetricCallback:
    table = {"kind": "best-metric", "every_n_epochs": 1, "source_metric_key": SOURCE, "target_metric_keys": [TARGET]}
    callback = make_callback({**table, **settings}, trainer, MODEL)
    assert isinstance(callback, BestMetricCallback)
    return callback


def logged(callback: BestMetricCallback, metrics: Mapping[str, float | None], *, interval_type: Any = "epoch") -> Any:
    """Return the metrics that the callback adds to a round with these metrics."""
    for key, value in metrics.items():
        if value is not None:
            callback.writer.add_scalar(key, value)
    try:
        callback.periodic_callback(interval_type=interval_type, update_counter=make_counter())
        return {key: value for key, value in callback.writer.current_metrics().items() if key not in metrics}
    finally:
        callback.writer.discard()


@given(rounds, st.booleans(), st.integers(0, 10))
def test_each_round_logs_the_targets_of_the_best_round_so_far_also_after_a_resume(
    trainer: BaseTrainer, rounds: list[tuple[float, int, int | None]], higher_is_better: bool, resume_before: int
) -> None:
    settings = {"optional_target_metric_keys": [OPTIONAL], "higher_is_better": higher_is_better}
    callback = best_metric(trainer, **settings)
    for index, (source, target, optional) in enumerate(rounds):
        if index == resume_before:
            state, callback = callback.state_dict(), best_metric(trainer, **settings)
            if state is not None:
                callback.load_state_dict(state)
        found = logged(callback, {SOURCE: source, TARGET: target, OPTIONAL: optional})
        so_far = [seen for seen in rounds[: index + 1] if math.isfinite(seen[0])]
        expected: dict[str, float] = {}
        if so_far:
            best = (max if higher_is_better else min)(so_far, key=lambda seen: seen[0])  # the first of equal ones
            expected[AT_BEST] = best[1]
            if best[2] is not None:
                expected[OPTIONAL_AT_BEST] = best[2]
        assert found == expected


def test_before_the_first_best_the_best_value_is_the_worst_there_is(trainer: BaseTrainer) -> None:
    assert best_metric(trainer).best_metric_value == math.inf
    assert best_metric(trainer, higher_is_better=True).best_metric_value == -math.inf
    assert best_metric(trainer).state_dict() is None


def test_the_best_value_of_the_source_is_known(trainer: BaseTrainer) -> None:
    callback = best_metric(trainer)
    for source in (3.0, 1.0, 2.0):
        logged(callback, {SOURCE: source, TARGET: 0.0})
    assert callback.best_metric_value == 1.0


@pytest.mark.parametrize(("source", "higher"), [(SOURCE, False), ("accuracy/val/label", True)])
def test_the_key_of_the_source_says_which_way_it_gets_better(trainer: BaseTrainer, source: str, higher: bool) -> None:
    assert best_metric(trainer, source_metric_key=source).higher_is_better is higher


def test_what_the_spec_says_comes_before_the_key(trainer: BaseTrainer) -> None:
    assert best_metric(trainer, higher_is_better=True).higher_is_better is True


def test_a_source_of_unknown_direction_is_refused_before_training(trainer: BaseTrainer) -> None:
    with pytest.raises(UnknownDirectionError) as error:
        best_metric(trainer, source_metric_key="temperature")
    assert "higher_is_better = true" in str(error.value.hint)


@pytest.mark.parametrize("missing", [SOURCE, TARGET])
def test_a_missing_metric_is_a_key_error_that_lists_what_is_there(trainer: BaseTrainer, missing: str) -> None:
    present = {SOURCE: 1.0, TARGET: 2.0, "other": 3.0}
    del present[missing]
    with pytest.raises(KeyError) as error:
        logged(best_metric(trainer), present)
    assert repr(missing) in str(error.value)
    assert "'other'" in str(error.value)


def test_a_round_that_lacks_a_target_is_not_a_new_best(trainer: BaseTrainer) -> None:
    callback = best_metric(trainer)
    with pytest.raises(KeyError):
        logged(callback, {SOURCE: 1.0})
    assert logged(callback, {SOURCE: 2.0, TARGET: 5.0}) == {AT_BEST: 5.0}


def test_an_evaluation_outside_of_training_neither_logs_nor_changes_the_best(trainer: BaseTrainer) -> None:
    callback = best_metric(trainer)
    logged(callback, {SOURCE: 2.0, TARGET: 5.0})
    assert logged(callback, {SOURCE: 1.0, TARGET: 0.0}, interval_type="eval") == {}
    assert logged(callback, {SOURCE: 3.0, TARGET: 9.0}) == {AT_BEST: 5.0}


def test_a_callback_without_targets_is_refused() -> None:
    with pytest.raises(ValidationError) as error:
        BestMetricCallbackConfig(source_metric_key=SOURCE, target_metric_keys=[])
    assert "target_metric_keys = " in str(error.value)


def test_optional_targets_alone_are_enough(trainer: BaseTrainer) -> None:
    callback = best_metric(trainer, target_metric_keys=None, optional_target_metric_keys=[OPTIONAL])
    assert logged(callback, {SOURCE: 1.0}) == {}
    assert logged(callback, {SOURCE: 0.5, OPTIONAL: 0.9}) == {OPTIONAL_AT_BEST: 0.9}


@pytest.mark.parametrize(("higher_is_better", "compared"), [(None, (SOURCE,)), (False, ())])
def test_it_declares_what_it_reads_compares_and_logs(higher_is_better: bool | None, compared: tuple[str, ...]) -> None:
    config = BestMetricCallbackConfig(
        source_metric_key=SOURCE,
        target_metric_keys=[TARGET, SOURCE],
        optional_target_metric_keys=[OPTIONAL, TARGET],
        higher_is_better=higher_is_better,
    )
    at_best = (AT_BEST, f"{SOURCE}/at_best/{SOURCE}", OPTIONAL_AT_BEST)
    assert BestMetricCallback.produced_metrics(config, MetricFacts(None, ())) == at_best
    assert BestMetricCallback.consumed_metrics(config) == (SOURCE, TARGET)
    assert BestMetricCallback.compared_metrics(config) == compared


def test_below_a_parent_it_follows_the_metrics_of_that_parent(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.log_writer.add_scalar(SOURCE, 0.0)
    view = trainer.log_writer.below("ema=0.999/")
    trainer.log_writer = view
    assert logged(best_metric(trainer), {SOURCE: 1.0, TARGET: 2.0}) == {AT_BEST: 2.0}
