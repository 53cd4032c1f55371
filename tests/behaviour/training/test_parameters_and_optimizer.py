"""Parameters and optimizer agree, or the run says so; parameters may begin to train during a run, and resume."""

import json
import math
from pathlib import Path

import pytest
import tomli_w
import torch
from safetensors.torch import load

import noether
from noether.checkpoint.paths import checkpoint_folders
from noether.errors import SpecError, TrainingError
from noether.runs.resume.verify_resume import verify_resume

SGD = {"kind": "SGD", "lr": 0.05, "momentum": 0.9}
FROZEN = {"kind": "lab.thawing.Layers", "frozen": ["encoder.*"], "optimizer": SGD}


def callback(kind, at=5, **settings):
    return {"kind": f"lab.thawing.{kind}", "every_n_updates": 1, "at": at, **settings}


@pytest.fixture
def is_resumed_exactly(tiny_spec, lab):
    """Compare a run straight and interrupted, after some updates."""

    def compare(changes, at):
        spec = {**tiny_spec, **changes, "trainer": {**tiny_spec["trainer"], **changes.get("trainer", {})}}
        Path("resumed.toml").write_text(tomli_w.dumps(spec))
        return verify_resume("resumed.toml", at=at).is_equal

    return compare


@pytest.fixture
def trained(finish, final_weights, lab):
    """Train with a model and callbacks; return the final weights."""

    def train(model, *callbacks, **settings):
        changes = {"model": model, "trainer.callbacks": list(callbacks), **settings}
        return load(final_weights(finish(changes)))

    return train


def changed(one, other):
    return {name for name in one if not torch.equal(one[name], other[name])}


@pytest.fixture
def refused(run, lab):
    """Return the error of a run that fails."""

    def error(model, *callbacks):
        outcome = run({"model": model, "trainer.callbacks": list(callbacks)})
        assert outcome.status == "FAILED"
        return outcome.error

    return error


# Agreement


def test_a_layer_made_in_the_first_forward_is_named(refused, run):
    error = refused({"kind": "lab.thawing.Late", "optimizer": SGD})
    assert isinstance(error, TrainingError)
    assert "head.weight, head.bias" in error.message
    assert "trainer.unfreeze" in error.hint


@pytest.mark.parametrize("at", [0, 5], ids=["before training", "after an update"])
def test_parameters_unfrozen_behind_the_trainer_s_back_are_named(refused, at):
    error = refused(FROZEN, callback("Sneak", at))
    assert isinstance(error, TrainingError)
    assert "encoder.0.weight" in error.message


@pytest.mark.parametrize("at", [0, 5], ids=["before training", "after an update"])
def test_a_layer_that_was_replaced_is_named(refused, at):
    error = refused({"kind": "lab.thawing.Layers", "optimizer": SGD}, callback("Replace", at))
    assert isinstance(error, TrainingError)
    assert "not in the model: head.weight, head.bias" in error.message


@pytest.mark.parametrize("at", [0, 5], ids=["before training", "after an update"])
def test_names_that_no_new_model_has_are_refused(refused, at):
    error = refused({"kind": "lab.thawing.Layers", "optimizer": SGD}, callback("Prune", at))
    assert isinstance(error, TrainingError)
    assert "added head.weight_mask, head.weight_orig and removed head.weight" in error.message


def test_the_wrong_update_is_in_no_checkpoint(run, lab):
    run({"model": FROZEN, "trainer.callbacks": [callback("Sneak"), {"kind": "checkpoint", "every_n_updates": 1}]})
    (run_dir,) = Path("runs").iterdir()
    assert checkpoint_folders(run_dir / "checkpoints")[-1].name.endswith("4")


def test_a_check_of_everything_finds_a_late_layer(noether_command, tiny_spec, lab):
    Path("late.toml").write_text(tomli_w.dumps({**tiny_spec, "model": {"kind": "lab.thawing.Late", "optimizer": SGD}}))
    ended = noether_command("check", "late.toml", "--deep")
    assert ended.code == 2
    assert "head.weight" in ended.err + ended.out


def test_frozen_and_tied_parameters_agree(trained):
    plain = trained(FROZEN)
    assert changed(plain, trained(FROZEN, **{"trainer.start_at_epoch": 2})) == {"head.weight", "head.bias"}


# Groups that are added


def test_unfrozen_parameters_train_from_the_next_update_on(trained):
    frozen, thawed = trained(FROZEN), trained(FROZEN, callback("Unfreeze"))
    assert changed(frozen, thawed) == set(frozen)
    assert changed(frozen, trained(FROZEN, callback("Unfreeze", at=12))) == set()


def test_unfreezing_is_what_torch_does_by_hand(trained):
    assert not changed(trained(FROZEN, callback("Unfreeze")), trained(FROZEN, callback("AddGroup", pattern="encoder")))


@pytest.mark.parametrize(
    ("kind", "at"),
    [
        ("AddGroup", 0),
        ("Unfreeze", 5),
        pytest.param("Unfreeze", 0, marks=pytest.mark.long),
        pytest.param("AddGroup", 5, marks=pytest.mark.long),
    ],
)
def test_a_run_with_a_group_that_was_added_resumes_exactly(is_resumed_exactly, kind, at):
    pattern = "encoder.2" + ("*" if kind == "Unfreeze" else "")
    changes = {
        "model": {**FROZEN, "optimizer": {**SGD, "schedule": "cosine", "clip_grad_norm": 1.0}},
        "trainer": {"callbacks": [callback(kind, at, pattern=pattern, lr=0.01)]},
    }
    assert is_resumed_exactly(changes, [5, 8])


def test_freezing_during_a_run_resumes_exactly(is_resumed_exactly):
    model = {"kind": "lab.thawing.Layers", "optimizer": {"kind": "AdamW", "lr": 0.01}}
    assert is_resumed_exactly({"model": model, "trainer": {"callbacks": [callback("Refreeze", at=3)]}}, [5])


def test_a_part_that_was_frozen_whole_gets_its_optimizer_and_resumes_exactly(is_resumed_exactly, trained, finish):
    adam = {"kind": "AdamW", "lr": 0.01, "schedule": "linear"}
    encoder = {"kind": "mlp", "hidden": [4], "in_features": {"x": 3}, "out_features": {"code": 5}, "frozen": ["*"]}
    decoder = {"kind": "mlp", "hidden": [], "in_features": {"code": 5}, "out_features": {"y": 2}}
    model = {"kind": "lab.models.AutoEncoder", "encoder": encoder, "decoder": decoder, "optimizer": adam}
    callbacks = [
        callback("Unfreeze", 3, pattern="encoder.layers.2.*", lr=0.5),
        {**callback("Unfreeze", 7), "id": "later"},
    ]
    assert changed(trained(model), trained(model, *callbacks)) >= {
        f"encoder.layers.{layer}.{name}" for layer in (0, 2) for name in ("weight", "bias")
    }
    assert is_resumed_exactly({"model": model, "trainer": {"callbacks": callbacks}}, [5, 9])


def test_the_schedule_applies_to_a_group_that_was_added(trained, finish):
    model = {**FROZEN, "optimizer": {**SGD, "schedule": {"kind": "linear", "end": 0.0}}}
    outcome = finish({"model": model, "trainer.callbacks": [callback("Unfreeze", lr=0.4)]})
    state = (checkpoint_folders(outcome.run_dir / "checkpoints")[-1] / "trainer.json").read_text()
    assert f'"lr":{0.4 * (1 - 11 / 12)}' in state
    assert math.isclose(0.4 * (1 - 11 / 12), 0.4 / 12)


def test_the_spec_s_groups_apply_to_what_is_unfrozen(finish, lab):
    groups = [{"match": ["*.weight"], "lr_scale": 0.5}]
    model = {**FROZEN, "optimizer": {**SGD, "weight_decay": 0.1, "groups": groups}}
    outcome = finish({"model": model, "trainer.callbacks": [callback("Unfreeze", lr=0.4)]})
    groups = noether_state(outcome)["optimizer"]["model"]["groups"]
    assert [(group["names"], group["lr"], group["weight_decay"]) for group in groups[2:]] == [
        (["encoder.0.bias", "encoder.2.bias"], 0.4, 0.0),
        (["encoder.0.weight", "encoder.2.weight"], 0.2, 0.1),
    ]


def noether_state(outcome):
    return json.loads((checkpoint_folders(outcome.run_dir / "checkpoints")[-1] / "trainer.json").read_text())


@pytest.mark.long
def test_averages_follow_what_is_unfrozen_and_resume_exactly(is_resumed_exactly):
    ema = {"kind": "ema", "every_n_updates": 4, "target_factors": [0.5]}
    callbacks = [ema, {"kind": "checkpoint", "every_n_updates": 1}, callback("Unfreeze")]
    assert is_resumed_exactly({"model": FROZEN, "trainer": {"callbacks": callbacks}}, [7])


def test_unfreezing_within_an_update_is_refused(run, lab):
    changes = {"model": FROZEN, "trainer.max_batch_size": 4, "trainer.callbacks": [callback("Hasty")]}
    outcome = run(changes)
    assert isinstance(outcome.error, TrainingError)
    assert "accumulation steps" in outcome.error.message


def test_a_parameter_that_the_model_lacks_is_refused_when_it_is_added(refused):
    error = refused(FROZEN, callback("Stray"))
    assert isinstance(error, TrainingError)
    assert "parameter group 2" in error.message


def test_a_pattern_that_matches_nothing_is_refused(refused):
    error = refused(FROZEN, callback("Unfreeze", pattern="encodr.*"))
    assert isinstance(error, SpecError)
    assert "encodr.*" in error.message


# Lazy layers


@pytest.mark.parametrize("frozen", [[], ["conv.weight"]], ids=["all train", "one frozen"])
def test_lazy_layers_take_their_sizes_from_a_sample(trained, frozen):
    lazy = {"kind": "lab.thawing.Lazy", "frozen": frozen, "optimizer": SGD}
    weights = trained(lazy)
    assert weights["lin.weight"].shape == (2, 12)
    moved = changed(weights, trained(lazy, **{"trainer.start_at_epoch": 2}))
    assert ("conv.weight" in moved) is (not frozen)


def test_a_lazy_layer_that_the_forward_does_not_use_is_named(tiny_spec, lab):
    tiny_spec["model"] = {"kind": "lab.thawing.Unused", "optimizer": SGD}
    with pytest.raises(SpecError) as caught:
        noether.run(tiny_spec, quiet=True)
    assert "spare" in caught.value.message
