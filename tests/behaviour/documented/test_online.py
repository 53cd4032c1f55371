"""The sentences about the callbacks that follow training: the best metric, and outputs of the train step."""

import logging

import pytest
import torch
from safetensors.torch import load_file

from noether.core.callbacks import PeriodicCallback
from noether.errors import TrainingError
from noether.testing import make_counter, make_model, make_trainer
from noether.training.trainers import WeightedLossTrainer

SOURCE, TARGET = "loss/val/total", "loss/test/total"
AT_BEST = f"{TARGET}/at_best/{SOURCE}"


class Scripted(PeriodicCallback):
    """Logs a validation and a test loss that are given for each epoch."""

    validation = (3.0, 1.0, 2.0, 0.5)
    test = (30.0, 10.0, 20.0, 5.0)

    def periodic_callback(self, *, update_counter, **_):
        for key, values in ((SOURCE, self.validation), (TARGET, self.test)):
            self.writer.add_scalar(key, values[update_counter.epoch - 1])


def best_metric(**fields):
    return {"kind": "best-metric", "every_n_epochs": 1, "source_metric_key": SOURCE, **fields}


def followed(workshop, **fields):
    trainer = workshop.train((Scripted, {"every_n_epochs": 1}), best_metric(**fields), max_epochs=4)
    return [metrics.get(AT_BEST) for metrics in workshop.metrics(trainer).values()]


def test_the_target_is_logged_as_it_was_at_the_best_source(workshop):
    assert followed(workshop, target_metric_keys=[TARGET]) == [30.0, 10.0, 10.0, 5.0]


def test_an_optional_target_may_be_missing(workshop):
    fields = {"target_metric_keys": [TARGET], "optional_target_metric_keys": ["accuracy/test"]}
    assert followed(workshop, **fields) == [30.0, 10.0, 10.0, 5.0]
    with pytest.raises(KeyError):
        followed(workshop, target_metric_keys=["accuracy/test"])


def test_the_direction_of_the_source_follows_from_its_key_or_the_config(workshop):
    lower, higher = (
        workshop.callback(best_metric(target_metric_keys=[TARGET], **field))
        for field in ({}, {"higher_is_better": True})
    )
    assert (lower.higher_is_better, higher.higher_is_better) == (False, True)
    assert (lower.best_metric_value, higher.best_metric_value) == (float("inf"), float("-inf"))


def test_the_best_metric_value_can_be_assigned(workshop):
    callback = workshop.callback(best_metric(target_metric_keys=[TARGET]))
    callback.best_metric_value = 2.0
    for value, best in ((3.0, 2.0), (1.5, 1.5)):
        callback.writer.add_scalar(SOURCE, value)
        callback.writer.add_scalar(TARGET, value)
        callback.periodic_callback()
        assert callback.best_metric_value == best
    callback.best_metric_value = float("inf")
    assert callback.best_metric_value == float("inf")


# Outputs of the train step


class GivesOutputs(WeightedLossTrainer):
    """Returns outputs beside the losses: the first sample of the batch, and its largest error."""

    def loss_compute(self, forward_output, targets):
        error = (forward_output["y"] - targets["y_target"]).abs()
        outputs = {"surface_loss": error.mean(), "worst_loss": error.max(), "some_error": error}
        return super().loss_compute(forward_output, targets), outputs


class Keeps(PeriodicCallback):
    """Keeps the outputs of each accumulation step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.outputs = []

    def track_after_accumulation_step(self, *, update_outputs, **_):
        self.outputs.append({name: float(output.mean()) for name, output in update_outputs.items()})


def tracking(**fields):
    return {"kind": "track-additional-outputs", "id": "outputs", "every_n_epochs": 1, **fields}


@pytest.fixture
def train(workshop, monkeypatch):
    """Trains for one epoch with outputs beside the losses; returns those of each accumulation step and the trainer."""
    monkeypatch.setattr("noether.testing.builders.WeightedLossTrainer", GivesOutputs)

    def trained(*callbacks, **settings):
        trainer = workshop.train((Keeps, {"every_n_epochs": 1}), *callbacks, max_epochs=1, **settings)
        return trainer.callbacks[0].outputs, trainer

    return trained


def logged(workshop, trainer):
    return {key.split("/")[0]: value for key, value in workshop.metrics(trainer)[6].items()}


def test_update_outputs_are_the_additional_outputs_of_the_trainer_for_every_accumulation_step(train):
    outputs, _ = train(max_batch_size=2)
    assert len(outputs) == 12
    assert all(one.keys() == {"surface_loss", "worst_loss", "some_error"} for one in outputs)


def test_outputs_are_tracked_that_a_key_names_exactly_or_that_contain_a_pattern(train, workshop):
    _, by_key = train(tracking(keys=["surface_loss"]))
    assert logged(workshop, by_key).keys() == {"surface_loss"}
    _, by_pattern = train(tracking(patterns=["loss"]))
    assert logged(workshop, by_pattern).keys() == {"surface_loss", "worst_loss"}


@pytest.mark.parametrize("reduce", ["mean", "last"])
def test_tracked_values_are_reduced_to_their_mean_or_the_last_one(train, workshop, reduce):
    outputs, trainer = train(tracking(keys=["surface_loss"], reduce=reduce))
    values = [one["surface_loss"] for one in outputs]
    expected = values[-1] if reduce == "last" else sum(values) / 6
    assert logged(workshop, trainer)["surface_loss"] == pytest.approx(expected, rel=1e-5)


def test_tracked_values_are_kept_by_output_until_the_interval_ends(workshop):
    callback = workshop.callback(tracking(keys=["surface_loss"], save_output=True))
    for value in (1.0, 2.0):
        callback.track_after_accumulation_step(
            update_counter=make_counter(), update_outputs={"surface_loss": torch.tensor(value)}
        )
    assert [float(value) for value in callback.tracked_values["surface_loss"]] == [1.0, 2.0]
    callback.periodic_callback(update_counter=make_counter(update=6))
    assert not callback.tracked_values


def test_outputs_can_be_saved_in_place_of_logged_and_be_printed(train, workshop, caplog):
    caplog.set_level(logging.INFO)
    _, trainer = train(tracking(keys=["some_error"], log_output=False, save_output=True, verbose=True))
    callback = trainer.callbacks[1]
    (file,) = callback.out.iterdir()
    assert load_file(file)["some_error"].shape == (6, 4, 2)
    assert "some_error" not in logged(workshop, trainer) if workshop.metrics(trainer) else True
    assert any(record.getMessage().startswith("some_error") for record in caplog.records)


def test_without_additional_outputs_a_key_is_an_error_that_says_so(workshop, tmp_path):
    with pytest.raises(TrainingError):
        workshop.train(tracking(keys=["surface_loss"]))
    assert workshop.callback(tracking(keys=["surface_loss"])).out is None
    assert (
        make_trainer(tmp_path / "x")
        .train_step({"x": torch.ones(1, 3), "y_target": torch.ones(1, 2)}, make_model())
        .additional_outputs
        is None
    )
