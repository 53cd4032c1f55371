"""A composite model from a spec: parts with their own tables, optimizers and frozen weights."""

import tomllib

import pytest
import torch
from safetensors.torch import load

import noether
from noether.checkpoint.paths import checkpoint_folders
from noether.errors import SpecError

SGD = {"kind": "SGD", "lr": 0.1}
ENCODER = {"kind": "mlp", "hidden": [4], "in_features": {"x": 3}, "out_features": {"code": 5}, "optimizer": SGD}
DECODER = {
    "kind": "mlp",
    "hidden": [4],
    "in_features": {"code": 5},
    "out_features": {"y": 2},
    "optimizer": {"kind": "AdamW", "lr": 0.02, "schedule": "linear"},
}
AUTO_ENCODER = {"kind": "lab.models.AutoEncoder", "encoder": ENCODER, "decoder": DECODER}
FIXED = {"kind": "lab.models.FixedParts", "encoder": {"width": 5}, "optimizer": SGD}


@pytest.fixture
def moved(finish, final_weights):
    """Train a model and return the names of the parameters that changed."""

    def train(model, **settings):
        changes = {"model": model, **{f"trainer.{name}": value for name, value in settings.items()}}
        untrained = load(final_weights(finish({**changes, "trainer.start_at_epoch": 2})))
        trained = load(final_weights(finish(changes)))
        return {name for name, tensor in trained.items() if not torch.equal(tensor, untrained[name])}

    return train


def parts_of(names):
    return {name.split(".")[0] for name in names}


def test_each_part_trains_with_the_optimizer_of_its_own_table(finish, metric_lines, lab):
    outcome = finish({"model": AUTO_ENCODER})
    lines = [line["metrics"] for line in metric_lines(outcome)[1:]]
    assert {line["optim/lr/encoder"] for line in lines} == {0.1}
    assert lines[6]["optim/lr/decoder"] == pytest.approx(0.02 * (1 - 6 / 12))
    optimizer = load((checkpoint_folders(outcome.run_dir / "checkpoints")[-1] / "optimizer.safetensors").read_bytes())
    assert {"decoder/layers.0.weight/exp_avg", "decoder/layers.2.bias/exp_avg_sq"} <= optimizer.keys()


def test_parts_of_the_project_s_own_classes_need_no_kind(moved, finish, lab):
    assert parts_of(moved(FIXED)) == {"encoder", "decoder"}
    outcome = finish({"model": FIXED})
    resolved = tomllib.loads((outcome.run_dir / "spec.resolved.toml").read_text())
    assert resolved["model"]["encoder"]["width"] == 5
    assert "model.optimizer" in resolved["resolved"]["kinds"]
    assert "model.encoder" not in resolved["resolved"]["kinds"]


def test_the_resolved_spec_of_a_composite_is_the_same_run(finish, final_weights, lab):
    first = finish({"model": AUTO_ENCODER})
    again = noether.run(first.run_dir / "spec.resolved.toml", quiet=True)
    assert final_weights(again) == final_weights(first)


def test_the_composite_s_optimizer_trains_the_parts_that_name_none(moved, finish, lab):
    model = {**FIXED, "decoder": {"width": 2, "optimizer": {"kind": "SGD", "lr": 0.3}}}
    assert parts_of(moved(model)) == {"encoder", "decoder"}
    metrics = finish({"model": model}).metrics
    assert (metrics["optim/lr/encoder"], metrics["optim/lr/decoder"]) == (0.1, 0.3)


@pytest.mark.parametrize(
    "freeze",
    [
        lambda model: {**model, "frozen": ["encoder.*"]},
        lambda model: {**model, "encoder": {**model["encoder"], "frozen": ["*"]}},
        lambda model: {**model, "encoder": {**model["encoder"], "frozen": ["*"], "optimizer": None}},
    ],
    ids=["by the composite", "by the part", "without an optimizer"],
)
def test_a_part_that_is_frozen_keeps_its_weights_and_has_no_optimizer(moved, finish, lab, freeze):
    model = freeze(AUTO_ENCODER)
    assert parts_of(moved(model)) == {"decoder"}
    step = checkpoint_folders(finish({"model": model}).run_dir / "checkpoints")[-1]
    assert parts_of(name.replace("/", ".") for name in load((step / "optimizer.safetensors").read_bytes())) == {
        "decoder"
    }


def test_a_part_may_be_frozen_in_part(moved, lab):
    model = {**AUTO_ENCODER, "encoder": {**ENCODER, "frozen": ["layers.0.*"]}}
    assert moved(model) == {
        "encoder.layers.2.weight", "encoder.layers.2.bias",
        "decoder.layers.0.weight", "decoder.layers.0.bias", "decoder.layers.2.weight", "decoder.layers.2.bias",
    }  # fmt: skip


def test_a_checkpoint_may_hold_some_of_the_parts(finish, lab):
    keep = {"kind": "checkpoint", "every_n_epochs": 1, "model_names": ["encoder"]}
    outcome = finish({"model": AUTO_ENCODER, "trainer.callbacks": [keep]})
    first, last = checkpoint_folders(outcome.run_dir / "checkpoints")
    assert parts_of(load((first / "model.safetensors").read_bytes())) == {"encoder"}
    assert parts_of(load((last / "model.safetensors").read_bytes())) == {"encoder", "decoder"}


def test_a_part_without_any_optimizer_is_refused_before_training(run, lab, workplace):
    model = {**AUTO_ENCODER, "decoder": {**DECODER, "optimizer": None}}
    with pytest.raises(SpecError) as error:
        run({"model": model})
    assert "'decoder'" in error.value.message
    assert not (workplace / "runs").exists()


def test_a_weight_that_no_part_holds_is_refused_before_training(run, lab, workplace):
    with pytest.raises(SpecError) as error:
        run({"model": {**FIXED, "kind": "lab.models.Loose"}})
    assert "'scale'" in error.value.message
    assert not (workplace / "runs").exists()


def test_a_key_that_a_part_does_not_know_is_an_error_in_its_own_table(run, lab):
    with pytest.raises(SpecError) as found:
        run({"model": {**AUTO_ENCODER, "decoder": {**DECODER, "hiden": [4]}}})
    assert "model.decoder" in str(found.value)
    assert "hidden" in str(found.value)


def test_each_part_clips_and_logs_a_norm_of_its_own(finish, metric_lines, lab):
    clipped = {**AUTO_ENCODER, "encoder": {**ENCODER, "optimizer": {**SGD, "clip_grad_norm": 1e-3}}}
    metrics = finish({"model": clipped}).metrics
    assert metrics["optim/grad_norm/encoder"] > 1e-3
    assert "optim/grad_norm/decoder" not in metrics


def test_a_group_of_a_part_names_the_parameters_of_that_part(finish, moved, lab):
    groups = [{"match": ["layers.0.*"], "lr_scale": 1e-12}]  # too small to move anything
    model = {**AUTO_ENCODER, "encoder": {**ENCODER, "optimizer": {**SGD, "groups": groups}}}
    assert {name for name in moved(model) if name.startswith("encoder.")} == {
        "encoder.layers.2.weight",
        "encoder.layers.2.bias",
    }
