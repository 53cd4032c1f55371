"""Models, losses, optimizers and schedules that a spec reaches, of torch and of the project."""

import math

import pytest
import torch
from safetensors.torch import load

from noether.errors import SpecError, TrainingError

ADAM = {"kind": "AdamW", "lr": 0.01}
SECOND_ORDER_OR_SPARSE = {"LBFGS", "SparseAdam", "Muon"}
OPTIMIZERS = sorted(
    name
    for name, found in vars(torch.optim).items()
    if isinstance(found, type) and issubclass(found, torch.optim.Optimizer) and name != "Optimizer"
)
SCHEDULES = {
    "constant": {"scale": 0.5, "hold_updates": 3},
    "linear": {"end": 0.1},
    "cosine": {},
    "cosine-restarts": {"first_updates": 4},
    "cyclic": {"up_updates": 3},
    "exponential": {"gamma": 0.9},
    "linear-warmup-cosine-decay": {"warmup_percent": 25},
    "multi-step": {"milestones": [2, 5]},
    "one-cycle": {},
    "polynomial": {"power": 2.0},
    "step": {"every_updates": 4},
}


def names_of(outcome, final_weights):
    return set(load(final_weights(outcome)))


def test_any_torch_module_is_a_model(finish, final_weights):
    linear = {"kind": "torch.nn.Linear", "in_features": 3, "out_features": 2, "optimizer": ADAM}
    assert names_of(finish({"model": linear}), final_weights) == {"weight", "bias"}


def test_a_module_of_the_project_is_a_model(finish, final_weights, lab):
    line = {"kind": "lab.models.Line", "bias": False, "optimizer": ADAM}
    assert names_of(finish({"model": line}), final_weights) == {"linear.weight"}


def test_the_parts_of_a_composite_have_optimizers_of_their_own(finish, final_weights, lab):
    model = {"kind": "lab.models.EncoderDecoder", "width": 5, "optimizer": ADAM}
    outcome = finish({"model": model})
    assert names_of(outcome, final_weights) == {
        "encoder.linear.weight",
        "encoder.linear.bias",
        "decoder.linear.weight",
        "decoder.linear.bias",
    }
    assert outcome.metrics["optim/lr/encoder"] == outcome.metrics["optim/lr/decoder"] == 0.01


def test_frozen_parts_keep_their_weights(finish, final_weights):
    untrained = load(final_weights(finish({"trainer.start_at_epoch": 2})))
    trained = load(final_weights(finish({"model.frozen": ["layers.0.*"]})))
    for name, tensor in trained.items():
        assert torch.equal(tensor, untrained[name]) == name.startswith("layers.0."), name


def test_a_function_of_the_project_is_a_loss(finish, lab):
    outcome = finish({"trainer.loss_fn": "lab.losses.fourth_power"})
    assert outcome.metrics["loss/online/y_loss"] > 0


def test_a_function_that_is_not_a_loss_is_refused(run, lab):
    with pytest.raises(SpecError) as caught:
        run({"trainer.loss_fn": "lab.losses.not_a_loss"})
    assert "lab.losses.not_a_loss" in str(caught.value)


def test_a_loss_takes_its_options_from_the_spec(finish):
    small, large = (finish({"trainer.loss_fn": {"kind": "huber", "delta": delta}}) for delta in (0.1, 10.0))
    assert small.metrics["loss/online/total"] < large.metrics["loss/online/total"]


def test_an_error_inside_a_loss_is_unchanged(run, lab):
    error = run({"trainer.loss_fn": "lab.losses.broken"}).error
    assert isinstance(error, KeyError)
    assert "no such key" in str(error)


@pytest.mark.parametrize(
    ("form", "keys"),
    [
        ("tensor", {"total", "loss"}),
        ("list", {"total", "loss_0", "loss_1"}),
        ("dict", {"total", "mse", "l1"}),
        ("tuple", {"total", "loss"}),
    ],
)
def test_a_trainer_of_the_project_may_return_its_loss_in_any_documented_form(finish, tiny_spec, lab, form, keys):
    watch = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test", "output_patterns": ["spread"]}
    trainer = {key: value for key, value in tiny_spec["trainer"].items() if key != "field_weights"}
    tiny_spec["trainer"] = {**trainer, "kind": "lab.trainers.Plain", "form": form, "callbacks": [watch]}
    metrics = finish().metrics
    assert {key.split("/")[2] for key in metrics if key.startswith("loss/online/")} == keys
    assert {key.split("/")[2] for key in metrics if key.startswith("loss/test/")} == keys
    assert ("spread/test" in metrics) == (form == "tuple")


def test_a_trainer_that_returns_no_loss_is_an_error(run, tiny_spec, lab):
    trainer = {key: value for key, value in tiny_spec["trainer"].items() if key != "field_weights"}
    tiny_spec["trainer"] = {**trainer, "kind": "lab.trainers.Plain", "form": "empty"}
    error = run().error
    assert isinstance(error, TrainingError)
    assert "found {}" in error.message


def test_a_field_without_a_target_is_refused_before_training(run, workplace):
    with pytest.raises(SpecError) as caught:
        run({"trainer.field_weights": {"z": 1.0}})
    assert "['z']" in str(caught.value)
    assert "['y_target']" in str(caught.value)
    assert not (workplace / "runs").exists()


def test_a_field_without_an_output_is_an_error_that_names_both(run, lab):
    model = {"kind": "lab.models.Renamed", "in_features": 3, "out_features": 2, "optimizer": {"kind": "SGD"}}
    error = run({"model": model}).error
    assert isinstance(error, TrainingError)
    assert "expected 'y'" in error.message
    assert "['z']" in error.message


def test_the_weight_of_a_field_scales_its_loss(finish):
    light, heavy = (
        finish({"trainer.max_epochs": None, "trainer.max_updates": 1, "trainer.field_weights": {"y": weight}})
        for weight in (1.0, 3.0)
    )
    key = "loss/online/y_loss"
    assert heavy.metrics[key] == pytest.approx(3 * light.metrics[key])


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in SECOND_ORDER_OR_SPARSE])
def test_every_first_order_optimizer_of_torch_trains(finish, name):
    outcome = finish({"trainer.max_epochs": 1, "model.optimizer": {"kind": name, "lr": 1e-3}})
    assert math.isfinite(outcome.metrics["loss/online/total"])


def test_muon_trains_what_has_matrices_only(finish, lab):
    line = {"kind": "lab.models.Line", "bias": False, "optimizer": {"kind": "Muon", "lr": 1e-3}}
    assert math.isfinite(finish({"model": line}).metrics["loss/online/total"])


def test_an_optimizer_that_needs_a_closure_is_refused_with_a_way_out(run, workplace):
    with pytest.raises(SpecError) as found:
        run({"model.optimizer": {"kind": "LBFGS"}})
    assert "LBFGS" in str(found.value)
    assert "first-order" in found.value.hint
    assert not (workplace / "runs").exists()


def test_options_that_torch_refuses_are_an_error_before_training(run, workplace):
    with pytest.raises(SpecError) as caught:
        run({"model.optimizer.lr": -1.0})
    assert "-1.0" in str(caught.value)
    assert not (workplace / "runs").exists()


def test_a_schedule_that_lacks_its_length_is_an_error_before_training(run, workplace):
    with pytest.raises(SpecError) as caught:
        run({"model.optimizer.schedule": {"kind": "step"}})
    assert "every_updates" in str(caught.value)
    assert not (workplace / "runs").exists()


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_schedule_moves_the_learning_rate_that_is_logged(finish, metric_lines, kind):
    schedule = {"kind": kind, **SCHEDULES[kind]}
    lines = metric_lines(finish({"model.optimizer.schedule": schedule}))[1:]
    rates = [line["metrics"]["optim/lr"] for line in lines]
    assert len(rates) == 12
    assert len(set(rates)) > 1
    assert all(0 <= rate <= 0.01 + 1e-12 for rate in rates)


def test_a_schedule_may_move_the_weight_decay(finish, final_weights):
    decay = {"model.optimizer.weight_decay": 0.5}
    fading = {**decay, "model.optimizer.weight_decay_schedule": {"kind": "linear"}}
    assert final_weights(finish(decay)) != final_weights(finish(fading))


def test_bf16_trains_and_evaluates_on_the_cpu_with_weights_in_float32(finish, final_weights):
    watch = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}
    changes = {"trainer.callbacks": [watch], "trainer.monitor_training_stability": True}
    full, half = (finish({**changes, "trainer.precision": precision}) for precision in ("fp32", "bf16"))
    assert {tensor.dtype for tensor in load(final_weights(half)).values()} == {torch.float32}
    assert half.metrics["loss/test/total"] == pytest.approx(full.metrics["loss/test/total"], rel=0.05)
    assert half.metrics["loss/test/total"] != full.metrics["loss/test/total"]
    assert half.metrics["stability/gradient_norm"] > 0
