"""Held-out losses and metrics equal those of the whole data set, in the units of the data."""

import numpy as np
import pytest
import torch
from safetensors.torch import load


def predictions(weights, x):
    """Evaluate the tiny spec's model with these weights, in double precision."""
    state = {name: tensor.double() for name, tensor in load(weights).items()}
    hidden = torch.nn.functional.gelu(x @ state["layers.0.weight"].T + state["layers.0.bias"])
    return hidden @ state["layers.2.weight"].T + state["layers.2.bias"]


def held_out():
    arrays = np.load("test.npz")
    return torch.from_numpy(arrays["x"]).double(), torch.from_numpy(arrays["y_target"]).double()


@pytest.mark.parametrize("batch_size", [1, 5, 12, 13, 50])
def test_the_held_out_loss_weighs_every_sample_the_same(finish, final_weights, batch_size):
    watch = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test", "batch_size": batch_size}
    outcome = finish({"trainer.callbacks": [watch]})
    x, target = held_out()
    expected = (predictions(final_weights(outcome), x) - target).square().mean().item()
    assert outcome.metrics["loss/test/total"] == pytest.approx(expected, rel=1e-5)
    assert outcome.metrics["loss/test/y_loss"] == outcome.metrics["loss/test/total"]


def test_metrics_are_in_the_units_of_the_data(finish, final_weights):
    metrics = {"y": ["rmse", "mae", "r2", "relative-l2"]}
    watch = {"kind": "offline-metrics", "every_n_epochs": 1, "dataset_key": "test", "metrics": metrics, "batch_size": 5}
    normalize = {"kind": "normalize", "properties": ["x", "y_target"]}
    outcome = finish({"transforms": [normalize], "trainer.callbacks": [watch]})
    train = np.load("train.npz")
    x, target = held_out()
    shift, scale = (torch.from_numpy(f(train["x"].astype("f8"), axis=0)) for f in (np.mean, np.std))
    y_shift, y_scale = (torch.from_numpy(f(train["y_target"].astype("f8"), axis=0)) for f in (np.mean, np.std))
    error = predictions(final_weights(outcome), (x - shift) / scale) * y_scale + y_shift - target
    expected = {
        "rmse": error.square().mean().sqrt(),
        "mae": error.abs().mean(),
        "r2": 1 - error.square().sum() / (target - target.mean()).square().sum(),
        "relative-l2": (error.norm(dim=1) / target.norm(dim=1)).mean(),
    }
    for name, value in expected.items():
        assert outcome.metrics[f"{name}/test/y"] == pytest.approx(value.item(), rel=1e-4), name


def test_max_size_takes_the_first_samples(finish, final_weights):
    watch = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test", "max_size": 4}
    outcome = finish({"trainer.callbacks": [watch]})
    x, target = held_out()
    expected = (predictions(final_weights(outcome), x[:4]) - target[:4]).square().mean().item()
    assert outcome.metrics["loss/test/total"] == pytest.approx(expected, rel=1e-5)


def test_several_evaluations_of_one_round_do_not_mix(finish):
    watch = {"kind": "offline-loss", "every_n_updates": 3}
    callbacks = [{**watch, "dataset_key": key, "batch_size": 5} for key in ("test", "train")]
    together = finish({"trainer.callbacks": callbacks})
    apart = [finish({"trainer.callbacks": [callback]}) for callback in callbacks[:2]]
    for key, single in zip(("test", "train"), apart, strict=True):
        assert together.metrics[f"loss/{key}/total"] == single.metrics[f"loss/{key}/total"]


def test_dropout_is_off_while_a_data_set_is_evaluated(finish):
    watch = [{"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": key} for key in ("train", "test")]
    outcome = finish({"model.dropout": 0.5, "trainer.callbacks": watch[1:]})
    again = finish({"model.dropout": 0.5, "trainer.callbacks": watch})
    assert outcome.metrics["loss/test/total"] == again.metrics["loss/test/total"]


def test_a_callback_of_a_project_evaluates_in_the_precision_of_training(finish, lab):
    callback = {"kind": "lab.callbacks.SeesDtype", "every_n_epochs": 1, "dataset_key": "test"}
    outcome = finish({"trainer.precision": "bf16", "trainer.callbacks": [callback]})
    assert outcome.metrics["in_bfloat16"] == 1.0
