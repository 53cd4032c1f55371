"""`noether eval`: metrics of a checkpoint."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import noether

OFFLINE_LOSS = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}
BEST = {"kind": "best-checkpoint", "every_n_epochs": 1, "metric_key": "loss/test/total"}
EMA = {"kind": "ema", "every_n_epochs": 1, "target_factors": [0.5]}
CHECKPOINT = {"kind": "checkpoint", "every_n_epochs": 1}


@pytest.fixture
def trained(finish):
    """A run of two epochs with everything that `eval` may meet."""
    averaged = {**EMA, "eval_callbacks": [OFFLINE_LOSS, BEST]}
    return finish({"trainer.callbacks": [OFFLINE_LOSS, BEST, averaged, CHECKPOINT]}, run_id="trained")


@pytest.fixture
def evaluate(noether_command):
    """Returns what `noether eval --json` printed."""

    def call(*arguments):
        ended = noether_command("eval", *arguments, "--json")
        assert ended.code == 0, ended.err
        return json.loads(ended.out.splitlines()[-1])

    return call


def logged(outcome, key, metric_lines):
    """Return a metric of the run by epoch."""
    return {line["epoch"]: line["metrics"][key] for line in metric_lines(outcome) if key in line["metrics"]}


@pytest.mark.parametrize(("name", "epoch"), [("latest", 2), ("last", 2), ("E1_U6_S48", 1)])
@pytest.mark.parametrize("key", ["loss/test/total", "ema=0.5/loss/test/total"])
def test_metrics_are_those_of_training_at_that_step(trained, evaluate, metric_lines, name, epoch, key):
    found = evaluate("trained", "--checkpoint", name)
    assert found["metrics"][key] == logged(trained, key, metric_lines)[epoch]


def test_losses_of_an_unfinished_interval_of_training_are_not_those_of_an_evaluation(finish, evaluate):
    callbacks = [OFFLINE_LOSS, CHECKPOINT, {"kind": "online-loss", "id": "rare", "every_n_updates": 4}]
    settings = {"trainer.track_every_n_updates": 4, "trainer.monitor_training_stability": True}
    finish({"trainer.callbacks": callbacks, **settings}, run_id="trained")
    found = evaluate("trained", "--checkpoint", "E1_U6_S48")["metrics"]
    assert "loss/test/total" in found
    assert not [key for key in found if key.startswith(("loss/online", "stability/"))]


@pytest.mark.parametrize("name", ["best_model.loss/test/total", "best_model.loss.test.total"])
def test_the_best_checkpoint_is_found_by_the_key_of_its_metric(trained, evaluate, metric_lines, name):
    found = evaluate("trained", "--checkpoint", name)
    assert found["metrics"]["loss/test/total"] == min(logged(trained, "loss/test/total", metric_lines).values())


def test_the_best_averages_are_evaluated_as_the_model(trained, evaluate, metric_lines):
    found = evaluate("trained", "--checkpoint", "best_model.ema=0.5.loss.test.total")
    best = min(logged(trained, "ema=0.5/loss/test/total", metric_lines).values())
    assert found["metrics"]["loss/test/total"] == best
    assert found["checkpoint"] == "E2_U12_S96.ema=0.5"


def test_averages_are_evaluated_by_what_evaluates_the_live_weights(finish, evaluate):
    finish({"trainer.callbacks": [OFFLINE_LOSS, EMA, CHECKPOINT]}, run_id="trained")
    metrics = evaluate("trained")["metrics"]
    assert metrics["ema=0.5/loss/test/total"] != metrics["loss/test/total"]


def test_averages_that_a_step_does_not_hold_are_left_out_rather_than_taken_from_elsewhere(finish, evaluate):
    quiet = {**EMA, "save_weights": False, "save_last_weights": False}
    finish({"trainer.callbacks": [OFFLINE_LOSS, BEST, quiet]}, run_id="trained")
    best = evaluate("trained", "--checkpoint", "E1_U6_S48")  # holds weights only
    assert "loss/test/total" in best["metrics"]
    assert not [key for key in best["metrics"] if key.startswith("ema=")]


def test_an_ema_s_own_evaluation_keeps_its_key_beside_another_of_the_same_id(finish, evaluate, metric_lines):
    some = {**OFFLINE_LOSS, "id": "val", "max_size": 4}
    callbacks = [{**OFFLINE_LOSS, "id": "val"}, {**EMA, "eval_callbacks": [some]}, CHECKPOINT]
    outcome = finish({"trainer.callbacks": callbacks}, run_id="trained")
    key = "ema=0.5/loss/test/total"
    assert evaluate("trained")["metrics"][key] == logged(outcome, key, metric_lines)[2]


def test_what_the_run_began_with_may_be_gone(trained, finish, evaluate, workplace):
    weights = workplace / "begin.safetensors"
    weights.write_bytes((trained.run_dir / "checkpoints/step-000000000012/model.safetensors").read_bytes())
    begin = {"kind": "checkpoint", "path": str(weights)}
    outcome = finish({"initializer": begin, "trainer.callbacks": [OFFLINE_LOSS, CHECKPOINT]}, run_id="again")
    weights.unlink()
    assert evaluate("again")["metrics"]["loss/test/total"] == outcome.metrics["loss/test/total"]


def test_statistics_of_transforms_are_those_of_the_checkpoint(trained, finish, evaluate, workplace):
    normalize = [{"kind": "normalize", "properties": ["x"]}]
    outcome = finish({"transforms": normalize, "trainer.callbacks": [OFFLINE_LOSS, CHECKPOINT]}, run_id="normalized")
    with np.load(workplace / "train.npz") as held:
        np.savez(workplace / "train.npz", x=held["x"] * 10, y_target=held["y_target"])
    found = evaluate("normalized")
    assert found["metrics"]["loss/test/total"] == outcome.metrics["loss/test/total"]


def test_metrics_are_kept_beside_those_of_the_run_and_replaced_by_the_next_evaluation(trained, evaluate):
    before = (trained.run_dir / "metrics.jsonl").read_bytes()
    for _ in range(2):
        found = evaluate(trained.run_dir, "--checkpoint", "last")
    file = trained.run_dir.resolve() / "evaluations" / "E2_U12_S96" / "metrics.jsonl"
    assert Path(found["file"]) == file
    (line,) = map(json.loads, file.read_text().splitlines())
    assert (line["update"], line["epoch"], line["sample"]) == (12, 2, 96)
    assert line["metrics"] == found["metrics"]
    assert (trained.run_dir / "metrics.jsonl").read_bytes() == before


def test_the_table_names_checkpoint_metrics_and_file(trained, noether_command):
    ended = noether_command("eval", "trained")
    lines = ended.out.splitlines()
    assert ended.code == 0
    assert lines[0].startswith("E2_U12_S96 of ")
    assert lines[1].split() == ["METRIC", "VALUE"]
    assert any(line.split()[:1] == ["ema=0.5/loss/test/total"] for line in lines)
    assert lines[-1].startswith("kept in ")


# What can be wrong


def test_an_unknown_run_is_reported_with_those_of_the_folder(trained, noether_command):
    ended = noether_command("eval", "trainde")
    assert ended.code == 2
    assert "found 'trainde', expected a run folder or the id of a run in runs. Did you mean 'trained'?" in ended.err
    assert "help: it has trained" in ended.err


def test_a_folder_that_is_not_a_run_is_reported(workplace, noether_command):
    (workplace / "mine").mkdir()
    ended = noether_command("eval", "mine")
    assert (ended.code, "run.json" in ended.err) == (2, True)


def test_an_unknown_name_is_reported_with_the_existing_checkpoints(trained, noether_command):
    ended = noether_command("eval", "trained", "--checkpoint", "best_model.loss.tset.total")
    assert ended.code == 3
    assert "Did you mean 'best_model.loss.test.total'?" in ended.err


def test_a_damaged_checkpoint_is_named_and_not_evaluated(trained, noether_command):
    weights = trained.run_dir / "checkpoints" / "step-000000000012" / "model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    ended = noether_command("eval", "trained", "--checkpoint", "last")
    assert ended.code == 3
    assert "model.safetensors is not what was saved" in ended.err


def test_the_latest_checkpoint_is_the_newest_sound_one(trained, evaluate):
    weights = trained.run_dir / "checkpoints" / "step-000000000012" / "model.safetensors"
    weights.write_bytes(b"")
    assert evaluate("trained", "--checkpoint", "latest")["checkpoint"] == "E1_U6_S48"


def test_a_run_with_code_of_its_own_is_evaluated_from_anywhere_once_it_is_said_where_that_is(
    tiny_spec, lab, noether_command, workplace, monkeypatch
):
    import tomli_w

    callbacks = [{"kind": "lab.callbacks.Moments", "id": "moments", "every_n_epochs": 1}]
    spec = workplace / "mine.toml"
    spec.write_text(tomli_w.dumps({**tiny_spec, "trainer": {**tiny_spec["trainer"], "callbacks": callbacks}}))
    assert noether_command("run", spec, "--run-id", "mine", "--quiet").code == 0
    (workplace / "elsewhere").mkdir()
    monkeypatch.chdir(workplace / "elsewhere")
    forget(workplace)
    refused = noether_command("eval", workplace / "runs" / "mine")
    assert refused.code == 2
    assert f"--project {workplace} looks for its code there" in refused.err
    assert noether_command("eval", workplace / "runs" / "mine", "--project", workplace).code == 0


def forget(folder):
    """Let the modules of a project be as unknown as they are to a new process."""
    sys.path[:] = [place for place in sys.path if not place.startswith(str(folder))]
    for name in [name for name in sys.modules if name.partition(".")[0] == "lab"]:
        del sys.modules[name]


# Other data

METRICS = {"kind": "offline-metrics", "every_n_epochs": 1, "dataset_key": "test", "metrics": {"y": ["rmse", "mae"]}}
NORMALIZE = [{"kind": "normalize", "properties": ["x", "y_target"]}]


@pytest.fixture
def normalized(finish):
    """A run on normalised data that evaluates two data sets."""
    averaged = {**EMA, "eval_callbacks": [METRICS]}
    callbacks = [METRICS, averaged, {**OFFLINE_LOSS, "dataset_key": "train"}, BEST | {"metric_key": "rmse/test/y"}]
    return finish({"transforms": NORMALIZE, "trainer.callbacks": [*callbacks, CHECKPOINT]}, run_id="normalized")


def labelled(path, x, y):
    np.savez(path, x=x, y_target=y)
    return path


def test_a_file_like_the_held_out_data_has_the_metrics_of_training(normalized, evaluate, workplace):
    with np.load("test.npz") as held:
        data = labelled("new.npz", held["x"], held["y_target"])
    for name in ("train.npz", "test.npz"):
        (workplace / name).unlink()
    found = evaluate("normalized", "--data", data)
    keys = [f"{prefix}{metric}/test/y" for prefix in ("", "ema=0.5/") for metric in ("rmse", "mae")]
    assert {key: found["metrics"][key] for key in keys} == {key: normalized.metrics[key] for key in keys}
    assert not [key for key in found["metrics"] if "/train/" in key]
    assert found["file"].endswith("evaluations/E2_U12_S96.data=new/metrics.jsonl")


def test_the_metrics_of_a_file_are_those_of_its_predictions_in_the_units_of_the_data(normalized, evaluate):
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(20, 3)).astype("float32"), rng.normal(2, 9, size=(20, 2)).astype("float32")
    error = noether.load_run("normalized").predict({"x": x})["y"] - y
    np.savez("new.npz", x=x, y=y)  # the name of the field, as in a file of predictions
    found = evaluate("normalized", "--data", "new.npz")["metrics"]
    assert found["rmse/test/y"] == pytest.approx(np.sqrt(np.square(error, dtype=float).mean()), rel=1e-6)
    assert found["mae/test/y"] == pytest.approx(np.abs(error).mean(dtype=float), rel=1e-6)


def test_a_file_without_labels_and_a_data_set_that_nothing_evaluates_are_reported(normalized, noether_command):
    np.savez("new.npz", x=np.ones((4, 3)))
    ended = noether_command("eval", "normalized", "--data", "new.npz")
    assert (ended.code, "expected y_target" in ended.err) == (2, True)
    labelled("new.npz", np.ones((4, 3)), np.ones((4, 2)))
    for options in (["--data", "new.npz", "--like", "tset"], ["--like", "test"]):
        assert noether_command("eval", "normalized", *options).code == 2
