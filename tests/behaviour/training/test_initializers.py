"""Runs that start with the weights or the state of another run."""

import json
from pathlib import Path

import numpy as np
import pytest

import noether
from noether.checkpoint.paths import checkpoint_folders, read_checkpoint
from noether.core.initializers.weights import read_weights
from noether.errors import CheckpointError, SpecError

EVERY_UPDATE = {"kind": "checkpoint", "every_n_updates": 1}
UPDATES = 12  # of the tiny run

# Everything that has to be restored is in one of these.
HARD = {
    "checkpoints.keep_last": UPDATES + 1,
    "trainer.max_batch_size": 4,  # two accumulation steps an update
    "trainer.callbacks": [
        EVERY_UPDATE,
        {"kind": "online-loss", "every_n_updates": 3},
        {"kind": "offline-loss", "every_n_updates": 5, "dataset_key": "test"},
        {"kind": "offline-loss", "id": "each-epoch", "every_n_epochs": 1, "dataset_key": "test"},
    ],
}
COSINE = {"kind": "cosine"}
RUNS = {
    "dropout, AdamW, schedule": {
        "model.dropout": 0.3,
        "model.optimizer": {"kind": "AdamW", "lr": 0.01, "schedule": COSINE, "clip_grad_norm": 1.0},
    },
    "momentum, noisy data, transform": {
        "datasets.train": {"kind": "lab.data.Noisy"},
        "model.optimizer": {"kind": "SGD", "lr": 0.01, "momentum": 0.9, "nesterov": True},
        "transforms": [{"kind": "normalize", "properties": ["x"]}],
        "trainer.max_epochs": None,
        "trainer.max_updates": UPDATES,
    },
    "composite": {
        "model": {"kind": "lab.models.EncoderDecoder", "optimizer": {"kind": "NAdam", "lr": 0.01, "schedule": COSINE}},
    },
    "frozen": {"model.frozen": ["*.0.*"], "model.dropout": 0.3},
    "mixed precision": {"trainer.precision": "fp16", "model.dropout": 0.3},
}


ANY = range(1, UPDATES)
SOME = (1, 4, 6, 8)  # at the end of an epoch, and within the first and the last


@pytest.fixture(autouse=True)
def at_the_lab(lab):
    """Specs name classes of the project `lab`."""


@pytest.fixture
def final_files():
    """Reads every file of a run's last step but its spec and the position in its own metrics file."""

    def read(outcome):
        manifest, files = read_checkpoint(checkpoint_folders(outcome.run_dir / "checkpoints")[-1])
        tree = json.loads(files.pop("trainer.json"))
        files.pop("spec.resolved.toml", None)  # runs of one test have different specs
        del tree["trainer"]["log_writer"]
        return manifest.update, files, tree

    return read


@pytest.fixture
def metrics_after(metric_lines):
    """Read the metrics of a run after an update, without times."""

    def read(outcome, update):
        return [
            (
                line["update"],
                line["sample"],
                {k: v for k, v in line["metrics"].items() if not k.startswith("profiling/")},
            )
            for line in metric_lines(outcome)
            if line["update"] > update
        ]

    return read


def resume(checkpoint="latest", run_id="first"):
    return {"kind": "resume", "run_id": run_id, "checkpoint": checkpoint}


@pytest.mark.parametrize(("name", "after"), [(name, SOME if number else ANY) for number, name in enumerate(RUNS)])
def test_a_run_that_is_resumed_after_any_update_ends_with_the_same_bytes(
    name, after, finish, final_files, metrics_after
):
    changes = {**HARD, **RUNS[name]}
    straight = finish(changes, run_id="first")
    steps = checkpoint_folders(straight.run_dir / "checkpoints")
    assert len(steps) == UPDATES
    for step in [steps[update - 1] for update in after]:
        manifest = read_checkpoint(step)[0]
        resumed = finish({**changes, "initializer": resume(manifest.iteration)})
        assert final_files(resumed) == final_files(straight), step.name
        assert metrics_after(resumed, manifest.update) == metrics_after(straight, manifest.update), step.name


def test_a_resumed_run_can_be_resumed(finish, final_files):
    straight = finish(HARD, run_id="first")
    short = {**HARD, "model.dropout": 0.0}
    second = finish({**short, "initializer": resume("E0_U3_S24")}, run_id="second")
    third = finish({**short, "initializer": resume("E1_U8_S64", run_id="second")})
    assert final_files(third) == final_files(second) == final_files(straight)


@pytest.mark.parametrize("place", ["initializer", "trainer.initializer"])
def test_a_resume_works_in_both_places_of_the_spec(place, finish, final_files):
    straight = finish(HARD, run_id="first")
    assert final_files(finish({**HARD, place: resume("E0_U5_S40")})) == final_files(straight)


def test_a_run_is_resumed_from_its_folder_and_from_a_copied_step(finish, final_files, workplace):
    straight = finish(HARD, run_id="first")
    step = straight.run_dir / "checkpoints/step-000000000007"
    copy = step.rename(workplace / "mailed")
    for path in ("mailed", "runs/first"):
        again = finish({**HARD, "initializer": {"kind": "resume", "path": path, "checkpoint": "E0_U5_S40"}})
        assert final_files(again) == final_files(straight)
    assert copy.exists()


def test_a_damaged_step_is_named_and_the_one_before_it_resumed(finish, final_files):
    straight = finish(HARD, run_id="first")
    *_, before, last = checkpoint_folders(straight.run_dir / "checkpoints")
    (last / "optimizer.safetensors").write_bytes(b"damaged")
    resumed = finish({**HARD, "initializer": resume()})
    log = (resumed.run_dir / "log.txt").read_text()
    assert f"{last.name} is damaged: optimizer.safetensors" in log
    assert "found 7 bytes" in log
    assert f"continuing after E1_U11_S88 from {before}" in log


def test_a_resumed_run_has_a_metrics_file_of_its_own_that_begins_where_it_begins(finish, metric_lines):
    finish(HARD, run_id="first")
    resumed = finish({**HARD, "initializer": resume("E0_U5_S40")})
    assert metric_lines(resumed)[0]["update"] == 5  # what callbacks say before training


def test_callbacks_get_their_state_before_they_hear_that_training_begins(finish):
    counts = {"kind": "lab.callbacks.Counts", "id": "counts", "every_n_updates": 1}
    callbacks = [EVERY_UPDATE, counts]
    finish({**HARD, "trainer.callbacks": callbacks}, run_id="first")
    outcome = finish({**HARD, "trainer.callbacks": callbacks, "initializer": resume("E0_U5_S40")})
    assert outcome.metrics["count"] == UPDATES
    assert Path("calls.txt").read_text().splitlines() == [
        "counts begins at E0_U0_S0",
        "counts resumes after 5 from step-000000000005",
        "counts begins at E0_U5_S40",
    ]


def test_added_and_removed_callbacks_are_logged(finish):
    counts = [{"kind": "lab.callbacks.Counts", "id": name, "every_n_updates": 1} for name in ("before", "after")]
    finish({**HARD, "trainer.callbacks": [EVERY_UPDATE, counts[0]]}, run_id="first")
    resumed = finish({**HARD, "trainer.callbacks": [counts[1]], "initializer": resume("E0_U5_S40")})
    log = (resumed.run_dir / "log.txt").read_text()
    assert "state of callback 'before' in the checkpoint ignored" in log
    assert "callback 'after' starts without a state" in log


def test_a_resumed_run_trains_as_its_own_spec_says(finish, final_weights):
    finish(HARD, run_id="first")
    again = {**HARD, "initializer": resume("E0_U5_S40")}
    still = finish({**again, "model.optimizer.lr": 0.0, "model.optimizer.weight_decay": 0.0})
    saved = Path("runs/first/checkpoints/step-000000000005/model.safetensors").read_bytes()
    assert final_weights(still) == saved
    longer = finish({**again, "trainer.max_epochs": 3})
    assert len(checkpoint_folders(longer.run_dir / "checkpoints")) == 18 - 5


def test_an_evaluation_alone_can_begin_with_a_whole_state(finish):
    straight = finish(HARD, run_id="first")
    evaluated = finish({**HARD, "trainer.max_epochs": 0, "initializer": resume()})
    assert evaluated.metrics["loss/test/total"] == straight.metrics["loss/test/total"]


def test_transforms_are_those_of_the_checkpoint_though_the_data_has_changed(finish):
    changes = {**HARD, "transforms": [{"kind": "normalize", "properties": ["x"]}]}
    straight = finish(changes, run_id="first")
    with np.load("train.npz") as arrays:
        np.savez("train.npz", x=10 * arrays["x"], y_target=arrays["y_target"])
    evaluated = finish({**changes, "trainer.max_epochs": 0, "initializer": resume()})
    assert evaluated.metrics["loss/test/total"] == straight.metrics["loss/test/total"]


@pytest.fixture
def refused(run):
    """Returns why a run is refused before it has a folder."""

    def why(changes):
        with pytest.raises(CheckpointError) as refusal:
            run(changes, run_id="second")
        assert not Path("runs/second").exists()
        return str(refusal.value)

    return why


def test_an_unknown_run_id_is_reported(finish, refused):
    finish(HARD, run_id="first")
    why = refused({**HARD, "initializer": resume(run_id="frist")})
    assert "found 'frist'" in why
    assert "Did you mean 'first'?" in why


def test_an_unknown_checkpoint_is_reported_with_the_existing_ones(finish, refused):
    finish({"trainer.callbacks": []}, run_id="first")
    why = refused({"trainer.callbacks": [], "initializer": resume("lats")})
    assert "holds no checkpoint 'lats'. Did you mean 'latest'?" in why
    assert "it has latest, last, E2_U12_S96" in why


def test_a_damaged_or_partial_checkpoint_is_reported(finish, refused):
    weights = {"kind": "checkpoint", "every_n_epochs": 1, "save_optim": False, "save_latest_optim": False}
    first = finish({**HARD, "trainer.callbacks": [weights]}, run_id="first")
    assert "found a partial save" in refused({**HARD, "initializer": resume("E1_U6_S48")})
    (checkpoint_folders(first.run_dir / "checkpoints")[-1] / "optimizer.safetensors").write_bytes(b"damaged")
    for name in ("last", "latest"):
        assert "is damaged: optimizer.safetensors" in refused({**HARD, "initializer": resume(name)})


@pytest.mark.parametrize("verb", [("plan",), ("check", "--deep")], ids=" ".join)
def test_a_rehearsal_finds_what_cannot_be_resumed(verb, finish, noether_command):
    first = finish(run_id="first")
    spec = Path("spec.toml")
    spec.write_text((first.run_dir / "spec.toml").read_text() + '\n[initializer]\nkind = "resume"\nrun_id = "frist"\n')
    ended = noether_command(verb[0], spec, *verb[1:])
    assert ended.code != 0
    assert "found 'frist'" in ended.err


def test_another_effective_batch_size_is_refused(finish, refused):
    finish(HARD, run_id="first")
    why = refused({**HARD, "trainer.effective_batch_size": 16, "initializer": resume("E0_U5_S40")})
    assert "found effective_batch_size = 16, expected 8" in why


def test_another_number_of_updates_in_an_epoch_is_refused(finish, refused):
    finish(HARD, run_id="first")
    with np.load("train.npz") as arrays:
        np.savez("train.npz", x=arrays["x"][:40], y_target=arrays["y_target"][:40])
    why = refused({**HARD, "initializer": resume("E0_U5_S40")})
    assert "found updates_per_epoch = 5, expected 6" in why


@pytest.mark.parametrize(
    ("limit", "before", "equal"), [("max_epochs", 1, 2), ("max_updates", 11, 12), ("max_samples", 80, 96)]
)
def test_a_limit_before_the_checkpoint_is_refused_and_one_at_it_is_accepted(limit, before, equal, finish, refused):
    finish(HARD, run_id="first")
    again = {**HARD, "trainer.max_epochs": None, "initializer": resume()}
    why = refused({**again, f"trainer.{limit}": before})
    assert f"E2_U12_S96: found {limit} = {before}" in why
    assert f"raise {limit}" in why
    finish({**again, f"trainer.{limit}": equal})


def test_averaged_weights_are_not_resumed_from(finish, refused):
    children = [
        {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"},
        {"kind": "best-checkpoint", "every_n_epochs": 1, "metric_key": "loss/test/total"},
    ]
    ema = {"kind": "ema", "every_n_epochs": 1, "target_factors": [0.5], "eval_callbacks": children}
    changes = {"trainer.callbacks": [ema]}
    finish(changes, run_id="first")
    why = refused({**changes, "initializer": resume("best_model.ema=0.5.loss/test/total")})
    assert "found callbacks/ema/0.5.safetensors" in why
    assert 'kind = "checkpoint"' in why


def test_another_optimizer_is_not_resumed(finish, run):
    finish(HARD, run_id="first")
    for kind in ("SGD", "Adam"):
        outcome = run({**HARD, "model.optimizer": {"kind": kind, "lr": 0.01}, "initializer": resume("E0_U5_S40")})
        assert isinstance(outcome.error, CheckpointError)
        assert f"found {kind}, expected AdamW" in str(outcome.error)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model.hidden": [9]}, "other shape: layers.0.weight (8, 3) instead of (9, 3)"),
        ({"model.frozen": ["*bias"]}, "not expected "),
    ],
)
def test_another_model_is_not_resumed(change, told, run):
    run(HARD, run_id="first")
    outcome = run({**HARD, **change, "initializer": resume()})
    assert isinstance(outcome.error, CheckpointError)
    assert told in str(outcome.error)


def test_an_initializer_in_both_places_of_the_spec_is_refused(run):
    with pytest.raises(SpecError) as caught:
        run({**HARD, "initializer": resume(), "trainer.initializer": resume()})
    assert caught.value.code == "conflicting-keys"


# Weights alone

STILL = {
    "seed": 7,
    "trainer.max_epochs": None,
    "trainer.max_updates": 1,
    "model.optimizer": {"kind": "SGD", "lr": 0.0},
}


@pytest.mark.parametrize("place", ["initializer", "trainer.initializer"])
@pytest.mark.parametrize(
    "initializer",
    [
        {"kind": "checkpoint", "path": "runs/first"},
        {"kind": "checkpoint", "path": "runs/first/checkpoints/step-000000000012/model.safetensors"},
        {"kind": "previous-run", "run_id": "first", "checkpoint": "last"},
    ],
    ids=["run", "file", "previous-run"],
)
def test_a_run_begins_with_the_weights_of_another(initializer, place, finish, final_weights):
    first = finish(run_id="first")
    copies = {"kind": "lab.callbacks.Copies", "every_n_updates": 1}
    second = finish({**STILL, "trainer.callbacks": [copies], place: initializer})
    assert final_weights(second) == final_weights(first)
    loaded = finish({**STILL, "trainer.callbacks": [copies]}).metrics["copied"]
    assert second.metrics["copied"] != loaded  # callbacks are built when the weights are there
    assert len(checkpoint_folders(second.run_dir / "checkpoints")) == 1  # it counts from zero
    assert "4 of 4 tensors loaded from " in (second.run_dir / "log.txt").read_text()


def test_a_resolved_spec_with_weights_is_the_same_run_from_anywhere(finish, final_weights, workplace, monkeypatch):
    finish(run_id="first")
    second = finish({**STILL, "initializer": {"kind": "checkpoint", "path": "runs/first"}})
    (workplace / "elsewhere").mkdir()
    expected, spec = final_weights(second), (second.run_dir / "spec.resolved.toml").resolve()
    monkeypatch.chdir(workplace / "elsewhere")
    assert final_weights(noether.run(spec, quiet=True)) == expected


def test_a_part_of_a_composite_is_filled_from_a_model_of_another_shape(finish):
    finish({"model": {"kind": "lab.models.Line", "optimizer": {"kind": "SGD", "lr": 0.1}}}, run_id="first")
    still = {"kind": "SGD", "lr": 0.0}
    model = {"kind": "lab.models.EncoderDecoder", "width": 2, "optimizer": still}
    pretrained = {"kind": "previous-run", "run_id": "first", "rename": {"": "encoder"}, "include": ["encoder.*"]}
    second = finish({"model": model, "initializer": pretrained})
    assert "2 of 2 tensors loaded from " in (second.run_dir / "log.txt").read_text()
    line, composite = (read_weights(Path("runs") / run_id, "last").tensors for run_id in ("first", second.run_dir.name))
    assert composite["encoder.linear.weight"].equal(line["linear.weight"])
    assert composite["encoder.linear.bias"].equal(line["linear.bias"])


def test_weights_that_do_not_fit_are_reported_before_the_run_has_a_folder(finish, run):
    finish(run_id="first")
    with pytest.raises(CheckpointError) as caught:
        run({"model.hidden": [9], "initializer": {"kind": "previous-run", "run_id": "first"}}, run_id="second")
    assert "layers.0.weight" in str(caught.value)
    assert not Path("runs/second").exists()


@pytest.mark.parametrize("name", ["previous-run", "resume"])
def test_a_deep_check_finds_the_run_that_a_spec_names(name, finish, noether_command):
    first = finish(run_id="first")
    spec = Path("spec.toml")
    spec.write_text((first.run_dir / "spec.toml").read_text() + f'\n[initializer]\nkind = "{name}"\nrun_id = "first"\n')
    ended = noether_command("check", spec, "--deep")
    assert ended.code == 0, ended.out + ended.err
    assert [path.name for path in Path("runs").iterdir()] == ["first"]
