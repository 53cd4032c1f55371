"""A checkpoint holds what the model's own `state_dict` holds, under the model's names, and gives it back."""

import json

import pytest
from safetensors import safe_open

import noether
from noether.checkpoint.paths import checkpoint_folders
from noether.checkpoint.saved import SavedCheckpoint
from noether.errors import SpecError, TrainingError

OFFLINE_LOSS = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}
EMA = {"kind": "ema", "every_n_epochs": 1, "target_factors": [0.5], "eval_callbacks": [OFFLINE_LOSS]}
WHOLE = ["ModuleChild", "Meeting", "Strange", "Extra", "Complex", "Annotated", "Renames", "Copies"]


def model(name, **options):
    return {"kind": f"lab.names.{name}", "optimizer": {"kind": "AdamW", "lr": 0.02}, **options}


def settings(name):
    return {"model": model(name), "trainer.callbacks": [OFFLINE_LOSS]}


def newest(outcome):
    return SavedCheckpoint.open(checkpoint_folders(outcome.run_dir / "checkpoints")[-1])


def weights(run_dir):
    return (checkpoint_folders(run_dir / "checkpoints")[-1] / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", WHOLE)
def test_it_is_evaluated_resumed_and_loaded_as_it_was_trained(finish, lab, noether_command, name):
    straight = finish(settings(name), run_id="straight")
    finish({**settings(name), "trainer.max_epochs": 1}, run_id="resumed")
    ended = noether_command("resume", "resumed", "-s", "trainer.max_epochs=2")
    assert ended.code == 0, ended.err
    assert weights(straight.run_dir.parent / "resumed") == weights(straight.run_dir)
    evaluated = noether_command("eval", "straight")
    assert evaluated.code == 0, evaluated.err
    results = next((straight.run_dir / "evaluations").glob("*/metrics.jsonl")).read_text()
    assert json.loads(results)["metrics"]["loss/test/total"] == straight.metrics["loss/test/total"]
    loaded = noether.load_run(straight.run_dir).model
    assert loaded.state_dict().keys() == newest(straight).tensors("model.safetensors").keys()


def test_two_names_never_meet(finish, lab):
    tensors = newest(finish({"model": model("Meeting")})).tensors("model.safetensors")
    parents = ("module.", "_orig_mod.", "model.", "")
    assert tensors.keys() == {f"{parent}head.{part}" for parent in parents for part in ("weight", "bias")}


def test_equal_states_are_equal_bytes_with_values_beside_the_tensors(finish, lab):
    one, other = finish({"model": model("Extra")}), finish({"model": model("Extra")})
    assert weights(one.run_dir) == weights(other.run_dir)


def test_other_programs_read_the_tensors_of_a_state_with_other_values(finish, lab):
    file = newest(finish({"model": model("Extra")})).folder / "model.safetensors"
    with safe_open(file, framework="pt") as opened:
        assert {"lin.weight", "lin.bias"} < set(opened.keys())


def test_averages_alone_keep_the_extra_state(finish, lab, noether_command):
    outcome = finish({"model": model("Extra"), "trainer.callbacks": [EMA, OFFLINE_LOSS]}, run_id="mine")
    held = newest(outcome).tensors("callbacks/ema/0.5.safetensors")
    assert held["_extra_state"]["calls"] == 12
    assert noether_command("eval", "mine").code == 0


def test_averages_follow_the_parameters_of_which_a_state_has_copies(finish, lab):
    runs = [finish({"model": model("Copies", copies=copies), "trainer.callbacks": [EMA]}) for copies in (True, False)]
    one, other = (newest(run).folder / "callbacks/ema/0.5.safetensors" for run in runs)
    assert one.read_bytes() == other.read_bytes()


def test_an_initializer_brings_the_extra_state_and_a_plain_file_leaves_it(finish, lab, noether_command):
    finish({"model": model("Extra")}, run_id="first")
    still = {"model": model("Extra"), "trainer.max_epochs": None, "trainer.max_updates": 1}
    again = finish({**still, "initializer": {"kind": "previous-run", "run_id": "first"}})
    assert newest(again).tensors("model.safetensors")["_extra_state"]["calls"] == 13
    finish({"model": {"kind": "lab.models.Line", "optimizer": {"kind": "SGD"}}}, run_id="plain")
    renamed = {"kind": "previous-run", "run_id": "plain", "rename": {"linear": "lin"}}
    assert newest(finish({**still, "initializer": renamed})).tensors("model.safetensors")["_extra_state"]["calls"] == 1


def test_verify_show_and_export_know_values_beside_the_tensors(finish, lab, noether_command):
    finish({"model": model("Extra")}, run_id="first")
    assert noether_command("checkpoint", "verify", "first", "--deep").code == 0
    shown = json.loads(noether_command("checkpoint", "show", "first", "latest", "--json").out)
    assert next(file for file in shown["files"] if file["file"] == "model.safetensors")["values"] == ["_extra_state"]
    assert noether_command("checkpoint", "export", "first", "--out", "w.safetensors").code == 0
    still = {"model": model("Extra"), "trainer.max_epochs": None, "trainer.max_updates": 1}
    again = finish({**still, "initializer": {"kind": "checkpoint", "path": "w.safetensors"}})
    assert newest(again).tensors("model.safetensors")["_extra_state"]["calls"] == 13


@pytest.mark.parametrize(
    ("name", "error", "fact"),
    [
        ("NeverGivenBack", SpecError, "set_extra_state"),
        ("HoldsASet", TrainingError, "_extra_state/seen"),
        ("Forgets", SpecError, "lin.bias"),
        ("Reserved", TrainingError, "__metadata__"),
    ],
)
def test_a_state_that_cannot_be_kept_is_refused_before_training(run, lab, name, error, fact):
    outcome = run({"model": model(name)})
    assert isinstance(outcome.error, error)
    assert fact in outcome.error.message
    assert not checkpoint_folders(outcome.run_dir / "checkpoints")


def test_a_state_that_does_not_come_back_is_an_error_that_names_it(finish, lab, noether_command):
    finish({"model": model("RenamesOneWay")}, run_id="mine")
    ended = noether_command("eval", "mine")
    assert ended.code == 3
    assert "old.bias" in ended.err
