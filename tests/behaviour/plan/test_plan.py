"""`noether plan` predicts the behaviour of `noether run`."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import noether
from noether.cli.main import main
from noether.cli.plan import print_plan
from noether.errors import UsageError
from noether.kernel.participant import Participant
from noether.runs.plan.plan_callbacks import planned_callbacks
from noether.runs.prepare import rehearsal
from noether.spec.load import load_spec


class Visitor:
    """A run plugin."""

    @noether.every(epochs=2)
    @noether.hookimpl
    def periodic_callback(self, update_counter): ...

    @noether.hookimpl
    def after_update(self, update_counter): ...


def loss(**more: Any) -> dict[str, Any]:
    return {"kind": "offline-loss", "dataset_key": "test", "every_n_epochs": 1, **more}


def command(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["noether", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def test_a_plan_counts_epochs_updates_and_samples(plan):
    made = plan({"trainer.max_batch_size": 3})
    assert made.datasets == {"train": 48, "test": 13}
    assert (made.updates_per_epoch, made.samples_left_out) == (6, 0)
    assert (made.effective_batch_size, made.batch_size, made.accumulation_steps) == (8, 2, 4)
    assert (made.updates, made.epochs, made.samples) == (12, 2.0, 96)
    assert (made.parameters, made.trainable) == (50, 50)


def test_a_run_that_ends_within_an_epoch_has_a_fraction_of_one(plan):
    made = plan({"trainer.max_epochs": None, "trainer.max_samples": 65})
    assert (made.updates, made.epochs, made.samples) == (9, 1.5, 72)


def test_callbacks_fire_when_and_in_the_order_that_the_plan_says(plan, run, lab):
    kind = "lab.callbacks.Moments"
    callbacks = [
        {"kind": kind, "id": "epochs", "every_n_epochs": 1},
        {"kind": kind, "id": "updates", "every_n_updates": 5},
        {"kind": kind, "id": "samples", "every_n_samples": 20},
        {"kind": kind, "id": "small-samples", "every_n_samples": 3},
    ]
    changes = {"trainer.callbacks": callbacks, "trainer.max_epochs": None, "trainer.max_updates": 15}
    made = plan(changes)
    assert not Path("calls.txt").exists()
    run(changes)
    calls = [line.split() for line in Path("calls.txt").read_text().splitlines()]
    updates: dict[str, list[int]] = {}
    for name, _, at in calls:
        updates.setdefault(name.removesuffix(":"), []).append(int(at.split("_")[1][1:]))
    planned = {row.id: (row.first, row.times) for row in made.callbacks if row.id in updates}
    assert planned == {name: (found[0], len(found)) for name, found in updates.items()}
    in_one_round = [row.id for row in made.callbacks if row.id in updates]
    assert in_one_round == ["updates", "samples", "small-samples", "epochs"]
    assert {row.id: row.every for row in made.callbacks if row.id in updates} == {
        "epochs": 6,
        "updates": 5,
        "samples": None,
        "small-samples": None,
    }


def test_the_best_checkpoints_are_shown_beside_those_that_are_kept(plan, capsys):
    best = {"kind": "best-checkpoint", "every_n_epochs": 1, "metric_key": "loss/test/total"}
    print_plan(plan({"trainer.callbacks": [loss(), best]}))
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert ["beside", "the best of best-checkpoint, which stay and are not counted here"] in lines
    print_plan(plan())
    assert "beside" not in capsys.readouterr().out


def test_checkpoints_are_committed_and_kept_as_planned(plan, finish):
    changes = {
        "trainer.callbacks": [{"kind": "checkpoint", "every_n_updates": 5}],
        "checkpoints.keep_last": 2,
        "transforms": [{"kind": "normalize", "properties": ["x"]}],
    }
    planned = plan(changes).checkpoints
    assert planned.updates == [5, 10, 12]
    outcome = finish(changes)
    kept = sorted((outcome.run_dir / "checkpoints").iterdir())
    assert [int(folder.name.removeprefix("step-")) for folder in kept] == planned.kept == [10, 12]
    sizes = {path.name: path.stat().st_size for path in kept[-1].iterdir()}
    assert planned.optimizer_known
    for name in ("model.safetensors", "optimizer.safetensors", "data.safetensors"):
        assert planned.files[name] == sizes[name]
    assert planned.size == pytest.approx(sum(sizes.values()), rel=0.1)


def test_an_optimizer_that_refuses_gradients_of_zero_is_not_counted(plan):
    assert plan().checkpoints.optimizer_known
    assert not plan({"model.optimizer": {"kind": "SparseAdam", "lr": 0.1}}).checkpoints.optimizer_known


def test_evaluation_passes_are_counted_in_batches(plan):
    (made,) = plan({"trainer.callbacks": [loss(batch_size=5)]}).passes
    assert (made.id, made.dataset, made.samples, made.batches, made.times) == ("offline-loss", "test", 13, 3, 2)


def test_a_run_that_only_evaluates_does_so_once(plan):
    made = plan({"trainer.max_epochs": 0, "trainer.callbacks": [loss(every_n_epochs=7)]})
    assert (made.updates, made.callbacks, made.checkpoints.updates) == (0, [], [])
    assert [(row.id, row.times) for row in made.passes] == [("offline-loss", 1)]
    assert "offline-loss" in made.hooks["at_eval"]


def test_a_run_plugin_is_planned_at_its_interval(tiny_spec):
    visitor = Participant("visitor", "visitor", Visitor(), is_plugin=True)
    with rehearsal(load_spec(tiny_spec), extras=[visitor]) as run:
        made = [row for row in planned_callbacks(run) if row.id == "visitor"]
    assert [(row.hook, row.interval, row.first, row.times) for row in made] == [
        ("after_update", "every_n_updates=1", 1, 12),
        ("after_epoch", "every_n_epochs=2", 12, 1),
    ]


def test_the_duration_of_training_follows_from_the_time_of_an_update(plan):
    assert plan(update_time=0.5).seconds == 6.0
    assert plan().seconds is None


def test_planning_leaves_nothing_behind(plan):
    before = sorted(Path().rglob("*"))
    plan({"trainer.callbacks": [{"kind": "checkpoint", "every_n_updates": 1}]})
    assert sorted(Path().rglob("*")) == before


@pytest.fixture
def spec_file(tiny_spec) -> str:
    tiny_spec["trainer"]["callbacks"] = [loss(), {"kind": "checkpoint", "every_n_epochs": 1}]
    Path("tiny.toml").write_text(tomli_w.dumps(tiny_spec))
    return "tiny.toml"


def test_the_page_says_all_of_it(spec_file, monkeypatch, capsys):
    options = ("--update-time", "600", "-s", "trainer.max_batch_size=4")
    code, out, err = command(monkeypatch, capsys, "plan", spec_file, *options)
    assert (code, err) == (0, "")
    assert "tiny: 12 updates on cpu" in out
    assert "8 samples = 2 accumulation steps of 4 samples" in out
    assert "12 updates = 2 epochs = 96 samples" in out
    assert "2 h for the updates" in out
    assert "after update  6, 12" in out
    lines = out.splitlines()
    (row,) = [line.split() for line in lines if "every_n_epochs" in line and "offline-loss" in line]
    assert row == [
        "offline-loss",
        "offline-loss",
        "every_n_epochs",
        "=",
        "1",
        "after_epoch",
        "update",
        "6",
        "6",
        "updates",
        "2",
    ]
    assert not any(line.endswith(" ") for line in lines)


def test_the_plan_is_json_where_asked_for(spec_file, monkeypatch, capsys):
    _, out, _ = command(monkeypatch, capsys, "plan", spec_file, "--json")
    made = json.loads(out)
    assert (made["updates"], made["checkpoints"]["updates"]) == (12, [6, 12])


def test_a_wrong_spec_ends_with_2(spec_file, monkeypatch, capsys):
    code, out, err = command(monkeypatch, capsys, "plan", spec_file, "-s", "trainer.effective_batch_size=49")
    assert (code, out) == (2, "")
    assert "set effective_batch_size to at most 48" in err


def test_check_deep_shows_the_place_of_what_fails(spec_file, monkeypatch, capsys):
    arguments = ("check", "--deep", spec_file)
    assert command(monkeypatch, capsys, *arguments) == (0, "tiny.toml: valid\n", "")
    code, out, err = command(monkeypatch, capsys, *arguments, "-s", "model.out_features={y=3}")
    assert (code, out) == (2, "")
    assert "one batch does not go through the loss" in err
    assert "[trainer.loss_fn]" in err
    assert not Path("runs").exists()


def test_check_notes_what_may_be_meant(spec_file, monkeypatch, capsys):
    changes = ("-s", "trainer.callbacks[checkpoint].every_n_epochs=3")
    code, out, _ = command(monkeypatch, capsys, "check", spec_file, *changes)
    assert code == 0
    assert "note: trainer.callbacks.1.every_n_epochs: every_n_epochs = 3 never fires" in out


@pytest.mark.parametrize(
    ("free", "wanted", "words"),
    [
        (None, "auto", ""),
        (None, True, "device_resident = true changes nothing on device 'cpu'"),
        (10**9, False, "device_resident = true"),
        (10**9, "auto", "on the device"),
        (10, "auto", "on the host"),
    ],
)
def test_a_plan_says_where_the_data_sets_are(plan, monkeypatch, free, wanted, words):
    monkeypatch.setattr("noether.data.container.free_memory", lambda _: free)
    found = plan({"loader.device_resident": wanted, "trainer.callbacks": [loss()]}).residence
    assert words in found
    assert bool(found) == bool(words)


def test_a_plan_gives_the_threads_with_their_reason(plan, capsys):
    made = plan({"threads": "auto"})
    assert made.threads == 1
    print_plan(made)
    assert f"1: {made.threads_reason}" in capsys.readouterr().out


@pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="compiles with a C++ compiler"
)
def test_a_plan_says_that_updates_will_be_compiled(plan):
    assert plan({"trainer.update": "compiled"}).form == "compiled"
    assert plan().slower_because["compiled"].startswith("possible")


def test_a_plan_says_in_which_form_updates_run_and_why_not_in_a_faster_one(plan, capsys):
    made = plan({"trainer.update": "graph"})
    assert made.form == "eager"
    assert "graph" in made.slower_because
    print_plan(made)
    assert f"eager; not graph: {made.slower_because['graph']}" in capsys.readouterr().out


def rows(made) -> dict[str, Any]:
    return {row.path: row for row in made.modules}


def test_the_modules_of_a_model_are_called_only_on_request(plan):
    assert plan().modules is None
    found = rows(plan(with_modules=True))
    assert list(found) == ["", "layers", "layers.0", "layers.1", "layers.2"]
    first = found["layers.0"]
    assert (first.depth, first.kind, first.inputs, first.outputs, first.calls) == (2, "Linear", "1x3", "1x8", 1)
    assert (first.parameters, first.trainable, first.flops) == (32, 32, 2 * 3 * 8)
    assert found[""].flops == sum(found[path].flops for path in ("layers.0", "layers.2"))
    assert found[""].parameters == 50


def test_frozen_shared_unused_and_alike_modules_are_told_apart(plan, lab):
    model = {"kind": "lab.models.Tower", "optimizer": {"kind": "AdamW"}, "frozen": ["first.*"]}
    found = rows(plan({"model": model}, with_modules=True))
    blocks = [row for path, row in found.items() if path.startswith("blocks.")]
    assert [(row.name, row.siblings, row.parameters) for row in blocks] == [("0-2", 3, 12)]
    assert (found["first"].parameters, found["first"].trainable) == (12, 0)
    assert (found["again"].parameters, found["again"].shared, found["again"].calls) == (0, 8, 1)
    assert (found["unused"].calls, found["unused"].flops) == (0, 0)
    assert found["blocks"].flops == 3 * blocks[0].flops
    assert found[""].parameters == 12 + 3 * 12 + 8 + 2


def test_a_composite_model_nests_its_parts(plan, lab):
    made = plan({"model": {"kind": "lab.models.EncoderDecoder", "optimizer": {"kind": "AdamW"}}}, with_modules=True)
    assert [(row.path, row.depth) for row in made.modules] == [
        ("", 0),
        ("encoder", 1),
        ("encoder.linear", 2),
        ("decoder", 1),
        ("decoder.linear", 2),
    ]


def test_a_forward_pass_that_fails_names_the_module_and_its_input(plan, lab):
    with pytest.raises(UsageError, match=r"failed in 'last' \(Linear\): .*; it was called with 1x3"):
        plan({"model": {"kind": "lab.models.Tower", "broken": True, "optimizer": {"kind": "AdamW"}}}, with_modules=True)


def test_plan_model_prints_the_modules(monkeypatch, capsys, spec_file):
    code, out, _ = command(monkeypatch, capsys, "plan", spec_file, "--model")
    assert code == 0
    assert "  MODULE    CLASS       INPUT  OUTPUT  PARAMETERS  FLOPS\n" in out.replace("  NOTE", "")
    _, out, _ = command(monkeypatch, capsys, "plan", spec_file, "--model", "--json")
    assert json.loads(out)["modules"][0]["parameters"] == 50
