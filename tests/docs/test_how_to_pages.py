"""The commands and specs of the how-to pages, in a short run of the shipped digits."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import noether
from noether.cli.main import main
from noether.core.initializers import weights
from noether.data.build import build_dataset
from noether.kernel.entries import installed_entries
from noether.runs.outcome import Outcome
from noether.testing.builders import tiny_spec
from noether.testing.contract import write_spec

UPDATES = 22
"""Updates of the digits in one epoch."""


@pytest.fixture
def finish(repository: Path, project: Path) -> Callable[..., Outcome]:
    """Runs two epochs of the digits with the callbacks of a piece of a spec, to a good end."""

    def finished(tables: dict[str, Any], changes: dict[str, Any] | None = None) -> Outcome:
        spec = tomllib.loads((repository / "specs/smoke/digits.toml").read_text())
        del spec["expect"]
        spec["trainer"] |= {"max_epochs": 2, **tables["trainer"]}
        spec |= {"trackers": [{"kind": "noop"}], "threads": 1, "device": "cpu"}
        spec["datasets"]["val"] = spec["datasets"]["test"]
        outcome = noether.run(spec, set=changes, quiet=True)
        assert outcome.error is None, outcome.error
        return outcome

    return finished


def curve(outcome: Outcome, key: str) -> list[float]:
    return [metrics[key] for metrics in lines_of(outcome) if key in metrics]


def lines_of(outcome: Outcome) -> list[dict[str, Any]]:
    return [json.loads(line)["metrics"] for line in (outcome.run_dir / "metrics.jsonl").read_text().splitlines()]


def newest_step(outcome: Outcome) -> Path:
    return max((outcome.run_dir / "checkpoints").glob("step-*"))


def test_the_smooth_loss_is_an_average_that_a_checkpoint_keeps(page, project: Path, finish):
    how_to = page["write-a-callback.md"]
    how_to.write_files(project)
    tables = tomllib.loads(how_to.blocks("toml")[0].text)
    tables["trainer"]["callbacks"].append({"kind": "online-loss", "every_n_updates": 1})
    outcome = finish(tables)
    average = None
    for metrics in lines_of(outcome)[1:]:
        loss = metrics["loss/online/total"]
        average = loss if average is None else 0.95 * average + 0.05 * loss
        assert metrics.get("loss/smooth", average) == pytest.approx(average, rel=1e-5)
    kept = load_file(newest_step(outcome) / "callbacks/smooth-loss.safetensors")
    assert [tensor.item() for tensor in kept.values()] == pytest.approx([average], rel=1e-5)


def test_the_confidence_is_a_probability_that_grows(page, project: Path, finish):
    how_to = page["write-a-callback.md"]
    how_to.write_files(project)
    outcome = finish(tomllib.loads(how_to.blocks("toml")[0].text))
    first, last = curve(outcome, "confidence/test")
    assert 0.1 < first < last < 1
    assert len(curve(outcome, "confidence/test/lowest")) == 2
    assert noether.load_run(outcome.run_dir).results["update"].tolist() == [22, 44]


def test_the_errors_are_a_picture_a_table_and_a_histogram_in_every_epoch(page, project: Path, finish):
    how_to = page["log-a-figure-or-a-table.md"]
    how_to.write_files(project)
    run = noether.load_run(finish(tomllib.loads(how_to.blocks("toml")[0].text)).run_dir)
    assert run.results["update"].tolist() == [22, 22, 22, 44, 44, 44]
    assert run.results["kind"].tolist()[:3] == ["figure", "table", "histogram"]
    worst = run.table("errors/test/worst")
    assert worst["error"].is_monotonic_decreasing
    assert worst.dtypes.astype(str).to_dict() == {"sample": "int64", "error": "float64"}
    counted = run.table("weights", update=22)
    assert len(counted) == 32
    assert counted["count"].sum() == sum(parameter.numel() for parameter in run.model.parameters())


def test_the_worst_error_is_in_metres(page, repository: Path, project: Path):
    page["write-a-callback.md"].write_files(project)
    spec = tomllib.loads((repository / "specs/experiment.toml").read_text())
    del spec["expect"]
    for key in ("train", "test"):
        spec["datasets"][key]["max_samples"] = 600
    worst = {"kind": "watching.worst.WorstCallback", "every_n_epochs": 1, "dataset_key": "test"}
    median = {"kind": "watching.worst.WorstCallback", "every_n_epochs": 1, "dataset_key": "train", "quantile": 0.5}
    spec["trainer"] |= {"max_epochs": 1, "callbacks": [worst, median]}
    outcome = noether.run({**spec, "trackers": [{"kind": "noop"}], "threads": 1, "device": "cpu"}, quiet=True)
    assert outcome.error is None
    held = build_dataset(noether.load_run(outcome.run_dir).spec.datasets["test"]).properties
    predicted = noether.load_run(outcome.run_dir).predict({"coords": held["coords"]})["elevation"]
    wanted = (predicted - held["elevation_target"]).abs().max()
    assert outcome.metrics["worst/test"] == pytest.approx(wanted.item(), rel=1e-5)
    assert 0 < outcome.metrics["worst/train"] < outcome.metrics["worst/test"] / 2


def test_nested_callbacks_see_rounded_weights_and_leave_no_trace(page, project: Path, finish):
    how_to = page["write-a-callback.md"]
    how_to.write_files(project)
    nested = tomllib.loads(how_to.blocks("toml")[1].text)
    (parent,) = nested["trainer"]["callbacks"]
    live = parent["eval_callbacks"]
    watched, alone = finish({"trainer": {"callbacks": [*live, parent]}}), finish({"trainer": {"callbacks": live}})
    rounded, plain = curve(watched, "rounded/loss/test/total"), curve(watched, "loss/test/total")
    assert rounded == pytest.approx(plain, rel=0.05)
    assert rounded != plain
    weights = [(newest_step(outcome) / "model.safetensors").read_bytes() for outcome in (watched, alone)]
    assert weights[0] == weights[1]


def test_a_run_plugin_beside_the_spec_counts_checkpoints_and_takes_options(page, project: Path, capfd):
    how_to = page["write-a-run-plugin.md"]
    plain, with_table, _, timing = how_to.blocks("python")
    callback = {"callbacks": [{"kind": "checkpoint", "every_n_updates": 5}]}
    for name, code, tables, printed in (
        ("plain", plain, 0, "FINISHED, 3 checkpoints"),
        ("table", with_table, 1, "FINISHED, 3 saved states"),
        ("timing", timing, 0, "after_training took 0."),
    ):
        (project / name).mkdir()
        (project / name / "noether_plugin.py").write_text(code.text)
        spec = tiny_spec(trainer=callback, **tomllib.loads(how_to.blocks("toml")[tables].text))
        assert noether.run(write_spec(project / name, spec), quiet=True).error is None
        assert printed in capfd.readouterr().out


def test_training_ends_when_the_metric_has_stopped_getting_better(page, finish):
    by_metric = tomllib.loads(page["stop-early.md"].blocks("toml")[0].text)
    outcome = finish(by_metric, {"model.optimizer.lr": 0.05})
    losses = curve(outcome, "loss/val/total")
    assert len(losses) - (losses.index(min(losses)) + 1) == 6
    assert outcome.exit_code == 0
    assert "loss/val/total has not improved for 6 intervals" in (outcome.run_dir / "log.txt").read_text()


def test_training_ends_after_a_time(page, finish):
    by_time = tomllib.loads(page["stop-early.md"].blocks("toml")[1].text)
    by_time["trainer"]["callbacks"][0]["stop_after_seconds"] = 0.001
    outcome = finish(by_time)
    assert newest_step(outcome).name == "step-000000000001"


def test_a_callback_of_the_project_ends_training(page, project: Path, finish):
    (block,) = page["stop-early.md"].blocks("python")
    (project / "enough.py").write_text(block.text)
    losses = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}
    enough = {"kind": "enough.GoodEnoughCallback", "every_n_epochs": 1}
    outcome = finish({"trainer": {"max_epochs": 50, "callbacks": [losses, enough]}}, {"model.optimizer.lr": 0.01})
    *before, last = curve(outcome, "loss/test/total")
    assert last < 0.1 <= min(before)


def test_averaged_weights_are_evaluated_by_factor_and_saved_under_the_names_of_the_model(page, finish):
    outcome = finish(tomllib.loads(page["keep-averaged-weights.md"].blocks("toml")[0].text))
    losses = {key: curve(outcome, key) for key in ("loss/test/total", "ema=0.99/loss/test/total")}
    assert [len(values) for values in losses.values()] == [2, 2]
    assert curve(outcome, "ema=0.999/loss/test/total") > losses["ema=0.99/loss/test/total"], "it looks back further"
    model = load_file(newest_step(outcome) / "model.safetensors")
    for factor in (0.99, 0.999):
        average = load_file(newest_step(outcome) / f"callbacks/ema/{factor}.safetensors")
        assert {name: tensor.shape for name, tensor in average.items()} == {
            name: tensor.shape for name, tensor in model.items()
        }
        assert not any(torch.equal(average[name], model[name]) for name in model)


def test_tolerances_name_what_stopping_early_would_have_kept(page, finish):
    tables = tomllib.loads(page["keep-the-best-checkpoint.md"].blocks("toml")[1].text)
    tables["trainer"] |= {"max_epochs": 20}
    outcome = finish(tables, {"model.optimizer.lr": 0.05})
    losses = curve(outcome, "loss/val/total")
    names = json.loads((newest_step(outcome) / "manifest.json").read_text())["names"]
    assert names["best_model.loss.val.total"]["update"] == UPDATES * (losses.index(min(losses)) + 1)
    for tolerance in (2, 5):
        kept = stopped_best(losses, tolerance)
        assert names[f"best_model.loss.val.total.tolerance={tolerance}"]["update"] == UPDATES * kept


def stopped_best(losses: list[float], tolerance: int) -> int:
    """Return the epoch of the best loss until more than `tolerance` epochs in a row had brought nothing better."""
    best, without = 0, 0
    for epoch, loss in enumerate(losses):
        best, without = (epoch, 0) if loss < losses[best] or epoch == 0 else (best, without + 1)
        if without > tolerance:
            return best + 1
    raise AssertionError("the run is too short to stop early")


def test_the_best_checkpoint_evaluates_its_children_on_every_new_best(page, finish):
    tables = tomllib.loads(page["keep-the-best-checkpoint.md"].blocks("toml")[2].text)
    tables["trainer"] |= {"max_epochs": 8}
    outcome = finish(tables, {"model.optimizer.lr": 0.05})
    losses = curve(outcome, "loss/val/total")
    bests = sum(loss < min([*losses[:epoch], float("inf")]) for epoch, loss in enumerate(losses))
    assert len(curve(outcome, "best=loss.val.total/accuracy/test/label")) == bests < len(losses)


def test_the_best_averaged_weights_are_kept_under_the_metric_of_the_average(page, finish):
    outcome = finish(tomllib.loads(page["keep-the-best-checkpoint.md"].blocks("toml")[3].text))
    names = json.loads((newest_step(outcome) / "manifest.json").read_text())["names"]
    (best,) = [named for name, named in names.items() if name.startswith("best_model.")]
    losses = curve(outcome, "ema=0.99/loss/val/total")
    assert best == {"update": UPDATES * (losses.index(min(losses)) + 1), "weights": "callbacks/ema/0.99.safetensors"}


def test_training_begins_with_the_weights_of_a_file_and_leaves_frozen_ones_alone(page, project: Path, finish):
    pretrained = load_file(newest_step(finish({"trainer": {"callbacks": []}})) / "model.safetensors")
    (project / "pretrained").mkdir()
    backbone = {name.replace("layers", "backbone"): tensor for name, tensor in pretrained.items()}
    save_file(backbone, project / "pretrained/classifier.safetensors")
    blocks = page["start-from-pretrained-weights.md"].blocks("toml")
    _, _, renamed, _, frozen, _ = (tomllib.loads(block.text) for block in blocks)
    untrained = {"trainer": {"callbacks": [], "start_at_epoch": 2}}
    initial = load_file(newest_step(finish(untrained)) / "model.safetensors")
    begun = load_file(newest_step(finish(untrained, renamed)) / "model.safetensors")
    for name, tensor in begun.items():
        assert torch.equal(tensor, initial[name] if name.startswith("layers.2.") else pretrained[name]), name
    outcome = finish({"trainer": {"callbacks": []}}, {**renamed, "model.frozen": frozen["model"]["frozen"]})
    trained = load_file(newest_step(outcome) / "model.safetensors")
    assert {name for name, tensor in trained.items() if torch.equal(tensor, begun[name])} == {
        "layers.0.weight",
        "layers.0.bias",
    }


@pytest.mark.parametrize("kind", ["previous-run", "checkpoint"])
def test_training_begins_with_the_weights_of_another_run(page, finish, kind: str):
    losses = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}
    best = {"kind": "best-checkpoint", "every_n_epochs": 1, "metric_key": "loss/test/total"}
    first = finish({"trainer": {"callbacks": [losses, best]}})
    how_to = page["start-from-pretrained-weights.md" if kind == "previous-run" else "keep-the-best-checkpoint.md"]
    table = next(
        table
        for block in how_to.blocks("toml")
        if (table := tomllib.loads(block.text).get("initializer")) and table["kind"] == kind and "checkpoint" in table
    )
    where = {"run_id": first.run_dir.name} if kind == "previous-run" else {"path": str(first.run_dir)}
    table |= {**where, "checkpoint": table["checkpoint"].replace("/val/", "/test/")}
    second = finish({"trainer": {"callbacks": [], "start_at_epoch": 2}}, {"initializer": table})
    kept = [load_file(newest_step(outcome) / "model.safetensors") for outcome in (first, second)]
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])


def test_a_head_of_another_name_is_filled_from_the_last_layer(page):
    table = next(
        table
        for block in page["start-from-pretrained-weights.md"].blocks("toml")
        if "layers.4" in (table := tomllib.loads(block.text).get("initializer", {})).get("rename", {})
    )
    tensors = {f"layers.{number}.weight": torch.tensor(float(number)) for number in (0, 2, 4)}
    found = weights.renamed(tensors, table["rename"])
    assert {name: int(tensor) for name, tensor in found.items()} == {
        "trunk.0.weight": 0,
        "trunk.2.weight": 2,
        "head.weight": 4,
    }


def test_a_group_trains_slower_and_without_decay(page, finish):
    (block, _) = page["train-parts-of-a-model-differently.md"].blocks("toml")
    optimizer = tomllib.loads(block.text)["model"]["optimizer"]
    outcome = finish({"trainer": {"callbacks": []}}, {"model.optimizer": optimizer})
    values = json.loads((newest_step(outcome) / "trainer.json").read_text())["optimizer"]
    (groups,) = [value["groups"] for value in values.values()]
    by_name = {name: one for one in groups for name in one["names"]}
    assert by_name["layers.0.weight"]["lr"] == pytest.approx(0.1 * by_name["layers.2.weight"]["lr"])
    assert by_name["layers.0.weight"]["weight_decay"] == 0.0


def test_parts_have_the_optimizers_that_the_spec_gives_them(page, project: Path, finish):
    how_to = page["train-parts-of-a-model-differently.md"]
    how_to.write_files(project)
    _, parts = (tomllib.loads(block.text) for block in how_to.blocks("toml"))
    outcome = finish({"trainer": {"callbacks": []}}, {"model": parts["model"]})
    values = json.loads((newest_step(outcome) / "trainer.json").read_text())["optimizer"]
    assert {name: value["class"] for name, value in values.items()} == {"encoder": "SGD", "head": "AdamW"}
    assert "encoder.layers.0.weight" in load_file(newest_step(outcome) / "model.safetensors")


def test_a_spec_without_training_evaluates_a_checkpoint(page, finish):
    losses = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}
    best = {"kind": "best-checkpoint", "every_n_epochs": 1, "metric_key": "loss/test/total"}
    first = finish({"trainer": {"callbacks": [losses, best]}})
    (block,) = page["evaluate-a-checkpoint.md"].blocks("toml")
    tables = tomllib.loads(block.text)
    initializer = tables["initializer"] | {"path": str(first.run_dir)}
    again = finish({"trainer": {**tables["trainer"], "callbacks": [losses]}}, {"initializer": initializer})
    assert again.metrics["loss/test/total"] == pytest.approx(first.metrics["loss/test/total/best"], rel=1e-6)


@pytest.mark.long
def test_the_contract_and_the_fixtures_of_the_page_pass(page, project: Path):
    _, *blocks = page["test-a-plugin.md"].blocks("python")
    for number, block in enumerate(blocks):
        (project / f"test_page_{number}.py").write_text(block.text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    ended = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, timeout=110)
    assert ended.returncode == 0, ended.stdout[-3000:]
    assert " passed" in ended.stdout


def test_the_commands_of_the_page_about_silent_callbacks_answer_as_it_says(
    page, repository: Path, project: Path, monkeypatch, capsys
):
    """Lines of a block stand in the output of its command in this order; `…` stands for anything."""
    how_to = page["find-why-a-callback-did-not-run.md"]
    how_to.write_files(project)
    shutil.copytree(repository / "specs", project / "specs")
    metadata = project / "site/noether_plugin_loud-1.2.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: noether-plugin-loud\nVersion: 1.2\n")
    (metadata / "entry_points.txt").write_text("[noether.plugins]\nloud = loud\n")
    loud = "import noether\nprint('hello')\n@noether.hookimpl\ndef run_started(): ...\n"
    (project / "site/loud.py").write_text(loud)
    monkeypatch.syspath_prepend(project / "site")
    monkeypatch.setattr("noether.cli.doctor.installed_entries", installed_entries.__wrapped__)
    parts = [part for block in how_to.blocks("console") for part in block.text.split("$ noether ")[1:]]
    assert len(parts) == 8
    for part in parts:
        line, *shown = part.splitlines()
        monkeypatch.setattr(sys, "argv", ["noether", *line.split()])
        with pytest.raises(SystemExit):
            main()
        printed = capsys.readouterr()
        pattern = ".*".join(re.escape(text) for text in "\n".join(shown).split("…"))
        pattern = re.sub(r"(\\ )+", " +", pattern)  # the widths of columns depend on the machine
        assert re.search(pattern, printed.out + printed.err, re.DOTALL), (line, printed)
