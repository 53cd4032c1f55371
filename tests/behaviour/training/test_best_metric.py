"""Metrics at the best value of another metric, through whole runs."""

import pytest

from noether.errors import SpecError

SOURCE, TARGET = "loss/test/total", "loss/train/total"
HELD_OUT = [{"kind": "offline-loss", "every_n_updates": 1, "dataset_key": key} for key in ("test", "train")]
AT_BEST = {"kind": "best-metric", "every_n_updates": 1, "source_metric_key": SOURCE, "target_metric_keys": [TARGET]}


def test_the_targets_follow_the_best_source_and_stay_flat_in_between(finish, metric_lines):
    restless = {"kind": "SGD", "lr": 0.6, "momentum": 0.9}
    outcome = finish({"trainer.callbacks": [*HELD_OUT, AT_BEST], "model.optimizer": restless})
    rounds = [line["metrics"] for line in metric_lines(outcome) if SOURCE in line["metrics"]]
    best = [min(rounds[: index + 1], key=lambda metrics: metrics[SOURCE]) for index in range(len(rounds))]
    assert [metrics[f"{TARGET}/at_best/{SOURCE}"] for metrics in rounds] == [metrics[TARGET] for metrics in best]
    assert 1 < len({metrics[SOURCE] for metrics in best}) < len(rounds)


def test_a_consumer_before_its_producer_is_refused_before_training(run, workplace):
    with pytest.raises(SpecError) as caught:
        run({"trainer.callbacks": [AT_BEST, *HELD_OUT]})
    assert caught.value.code == "late-metric"
    assert not (workplace / "runs").exists()


def test_a_source_of_unknown_direction_is_told_before_training(run, workplace):
    neutral = {**AT_BEST, "source_metric_key": "data/test/samples"}
    with pytest.raises(SpecError) as caught:
        run({"trainer.callbacks": [*HELD_OUT, neutral]})
    assert "unknown-direction" in {problem.code for problem in caught.value.problems}


def test_an_optional_target_need_not_be_logged(finish):
    optional = {"target_metric_keys": None, "optional_target_metric_keys": [TARGET, "accuracy/test/y"]}
    outcome = finish({"trainer.callbacks": [*HELD_OUT, {**AT_BEST, **optional}]})
    assert f"{TARGET}/at_best/{SOURCE}" in outcome.metrics
    assert f"accuracy/test/y/at_best/{SOURCE}" not in outcome.metrics


def test_the_callback_that_logs_a_source_may_declare_its_direction(finish, lab):
    scores = {"kind": "lab.callbacks.Scores", "every_n_updates": 1}
    at_best = {**AT_BEST, "every_n_updates": None, "every_n_epochs": 1, "source_metric_key": "score/test"}
    callbacks = [at_best, {**HELD_OUT[1]}, scores]
    outcome = finish({"trainer.callbacks": callbacks, "expect": {"best/score/test": {"min": 1.0}}})
    assert outcome.metrics[f"{TARGET}/at_best/score/test"] == outcome.metrics[TARGET]
