"""The configs in the documentation: the same kinds and fields, run with the data sets that they name."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

VALIDATION = {"kind": "noether.training.callbacks.OfflineLossCallback", "every_n_epochs": 1, "dataset_key": "val"}
TEST = {**VALIDATION, "dataset_key": "test"}
BEST_METRIC = {
    "kind": "noether.core.callbacks.BestMetricCallback",
    "every_n_epochs": 1,
    "source_metric_key": "loss/val/total",
    "target_metric_keys": ["loss/test/total"],
}
ADDITIONAL_OUTPUTS = {
    "kind": "noether.core.callbacks.TrackAdditionalOutputsCallback",
    "name": "TrackAdditionalOutputsCallback",
    "every_n_updates": 1,
    "keys": ["surface_pressure_loss"],
}
BEST_CHECKPOINT = {
    "kind": "noether.core.callbacks.BestCheckpointCallback",
    "name": "BestCheckpointCallback",
    "every_n_epochs": 1,
    "metric_key": "loss/val/total",
    "model_names": ["encoder"],
    "eval_callbacks": [TEST],
}
CHECKPOINT = {
    "kind": "noether.core.callbacks.CheckpointCallback",
    "name": "CheckpointCallback",
    "every_n_epochs": 1,
    "save_weights": True,
    "save_optim": True,
}
EMA = {
    "kind": "noether.core.callbacks.EmaCallback",
    "every_n_epochs": 10,
    "save_weights": False,
    "save_last_weights": False,
    "save_latest_weights": True,
    "target_factors": [0.9999],
    "name": "EmaCallback",
    "eval_callbacks": [VALIDATION],
}
EPOCHS = 12


@pytest.fixture(autouse=True)
def validation(tiny_spec):
    """A third data set and a learning rate at which the losses go up and down."""
    arrays = np.load("test.npz")
    noise = np.random.default_rng(1).normal(size=arrays["y_target"].shape).astype("float32")
    np.savez("val.npz", x=arrays["x"], y_target=arrays["y_target"] + noise)
    tiny_spec["datasets"]["val"] = {"kind": "file", "path": "val.npz"}
    tiny_spec["model"]["optimizer"]["lr"] = 0.2
    tiny_spec["trainer"]["max_epochs"] = EPOCHS
    tiny_spec["checkpoints"] = {"keep_last": 100}


def curve(lines, key):
    """Return the values of a metric by epoch."""
    return {line["epoch"]: line["metrics"][key] for line in lines if key in line["metrics"]}


def best_epoch(losses):
    """Return the epoch of the lowest loss, which must be neither the first nor the last one."""
    epoch = min(losses, key=losses.get)
    assert min(losses) < epoch < max(losses), "the run is to get better and worse again"
    return epoch


def named(outcome, name):
    """Return the weights that a name stands for in the table of the run's newest step."""
    folders = {int(step.name.removeprefix("step-")): step for step in (outcome.run_dir / "checkpoints").glob("step-*")}
    table = json.loads((folders[max(folders)] / "manifest.json").read_text())["names"]
    return load_file(folders[table[name]["update"]] / table[name]["weights"])


def loss_of(weights, split):
    """Compute the tiny spec's loss of these weights in double precision."""
    state = {name: tensor.double() for name, tensor in weights.items()}
    x, target = (torch.from_numpy(np.load(f"{split}.npz")[key]).double() for key in ("x", "y_target"))
    hidden = torch.nn.functional.gelu(x @ state["layers.0.weight"].T + state["layers.0.bias"])
    output = hidden @ state["layers.2.weight"].T + state["layers.2.bias"]
    return (output - target).square().mean().item()


def test_the_test_loss_is_logged_at_the_best_validation_loss(finish_with, metric_lines):
    lines = metric_lines(finish_with(VALIDATION, TEST, BEST_METRIC))
    validation, test = curve(lines, "loss/val/total"), curve(lines, "loss/test/total")
    at_best = curve(lines, "loss/test/total/at_best/loss/val/total")
    best_epoch(validation)
    assert list(at_best) == list(range(1, EPOCHS + 1))
    for epoch, value in at_best.items():
        assert value == test[min(range(1, epoch + 1), key=validation.get)]


def test_additional_outputs_of_the_trainer_are_logged_every_update(finish_with, tiny_spec, metric_lines):
    del tiny_spec["trainer"]["field_weights"]
    tiny_spec["trainer"] |= {"kind": "lab.documented.trainers.WithOutputs", "max_batch_size": 4}
    steps = {"kind": "lab.documented.callbacks.StepOutputs", "every_n_updates": 1}
    lines = metric_lines(finish_with(steps, ADDITIONAL_OUTPUTS))[1:]
    assert len(lines) == 6 * EPOCHS
    for line in lines:
        logged = line["metrics"]
        expected = (logged["surface_pressure_loss_0"] + logged["surface_pressure_loss_1"]) / 2
        assert logged["surface_pressure_loss"] == pytest.approx(expected)
        assert "worst_error" not in logged


def test_the_best_checkpoint_holds_the_part_that_is_named_and_evaluates_its_children(
    finish_with, tiny_spec, metric_lines
):
    tiny_spec["model"] = {"kind": "lab.models.EncoderDecoder", "optimizer": {"kind": "AdamW", "lr": 0.2}}
    history = {"kind": "lab.documented.callbacks.WeightHistory", "every_n_updates": 1}
    outcome = finish_with(history, VALIDATION, TEST, BEST_CHECKPOINT)
    lines = metric_lines(outcome)
    validation, test = curve(lines, "loss/val/total"), curve(lines, "loss/test/total")
    best = best_epoch(validation)
    then = load_file(f"weights/{6 * best}.safetensors")
    kept = named(outcome, "best_model.loss.val.total")
    assert kept.keys() == {"encoder.linear.weight", "encoder.linear.bias"}
    assert all(torch.equal(kept[name], then[name]) for name in kept)
    children = curve(lines, "best=loss.val.total/loss/test/total")
    new_bests = [
        epoch for epoch in validation if validation[epoch] < min([*list(validation.values())[: epoch - 1], 9e9])
    ]
    assert children == {epoch: test[epoch] for epoch in new_bests}


def test_the_best_checkpoint_of_a_whole_model_has_the_best_loss(finish_with, metric_lines):
    whole = {key: value for key, value in BEST_CHECKPOINT.items() if key != "model_names"}
    outcome = finish_with(VALIDATION, whole)
    validation = curve(metric_lines(outcome), "loss/val/total")
    best_epoch(validation)
    assert loss_of(named(outcome, "best_model.loss.val.total"), "val") == pytest.approx(
        min(validation.values()), rel=1e-5
    )


def test_a_checkpoint_is_kept_every_epoch(finish_with):
    outcome = finish_with(CHECKPOINT, {"kind": "lab.documented.callbacks.WeightHistory", "every_n_updates": 1})
    steps = sorted((outcome.run_dir / "checkpoints").glob("step-*"))
    assert [int(step.name.removeprefix("step-")) for step in steps] == [6 * epoch for epoch in range(1, EPOCHS + 1)]
    for step in steps:
        kept = load_file(step / "model.safetensors")
        then = load_file(f"weights/{int(step.name.removeprefix('step-'))}.safetensors")
        assert all(torch.equal(kept[name], then[name]) for name in then)
        assert (step / "optimizer.safetensors").exists()


def test_the_averaged_weights_are_evaluated_and_saved(finish_with, metric_lines, final_weights):
    history = {"kind": "lab.documented.callbacks.WeightHistory", "every_n_updates": 1}
    outcome = finish_with(history, VALIDATION, EMA)
    average = {name: tensor.double() for name, tensor in load_file("weights/0.safetensors").items()}
    logged = curve(metric_lines(outcome), "ema=0.9999/loss/val/total")
    averages = {}
    for update in range(1, 6 * EPOCHS + 1):
        weights = load_file(f"weights/{update}.safetensors")
        average = {name: 0.9999 * average[name] + 0.0001 * weights[name].double() for name in average}
        averages[update] = average
    expected = {epoch: loss_of(averages[6 * epoch], "val") for epoch in range(1, EPOCHS + 1)}
    assert logged == pytest.approx(expected, rel=1e-5)
    assert logged != curve(metric_lines(outcome), "loss/val/total")
    newest = max((outcome.run_dir / "checkpoints").glob("step-*"))
    (file,) = newest.glob("callbacks/*/0.9999.safetensors")
    kept = load_file(file)
    assert kept.keys() == average.keys()
    assert all(torch.allclose(kept[name].double(), average[name], atol=1e-6) for name in kept)


def test_the_averages_change_nothing_about_the_training(finish_with, finish, final_weights):
    assert final_weights(finish_with(EMA)) == final_weights(finish())
