"""`noether checkpoint list|show|pin|unpin|prune` on real runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from noether.runs.folder.lock import RunLock

OFFLINE_LOSS = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}
BEST = {"kind": "best-checkpoint", "every_n_epochs": 1, "metric_key": "loss/test/total"}
EVERY_UPDATE = {"kind": "checkpoint", "every_n_updates": 1}
STATS = {"kind": "lab.callbacks.Counts", "id": "counts", "every_n_updates": 1}


@pytest.fixture
def trained(finish):
    """A run of twelve updates with a checkpoint of each."""
    return finish(
        {"checkpoints.keep_last": 12, "trainer.callbacks": [OFFLINE_LOSS, BEST, EVERY_UPDATE]}, run_id="trained"
    )


@pytest.fixture
def checkpoint(noether_command):
    """Call a verb of `noether checkpoint`, check that it succeeds, and return its output."""

    def call(*arguments):
        ended = noether_command("checkpoint", *arguments)
        assert (ended.code, ended.err) == (0, "")
        return ended.out

    return call


@pytest.fixture
def updates(checkpoint):
    """Returns the updates of the checkpoints that a run has."""
    return lambda: [step["update"] for step in json.loads(checkpoint("list", "trained", "--json"))]


# list


def test_the_table_names_every_checkpoint_and_what_it_goes_by(trained, checkpoint):
    lines = checkpoint("list", "trained").splitlines()
    assert lines[0].split() == ["NAME", "UPDATE", "EPOCH", "SAMPLES", "SIZE", "RESUMABLE", "PINNED", "NAMES"]
    assert len(lines) == 13
    first, last = lines[1].split(), lines[-1].split(maxsplit=8)
    assert first[:4] == ["E0_U1_S8", "1", "0", "8"]
    assert first[6:] == ["yes", "no"]
    assert last[8] == "latest, best_model.loss.test.total, last"


def test_json_has_a_row_for_each_with_its_size(trained, checkpoint):
    rows = json.loads(checkpoint("list", trained.run_dir, "--json"))
    last = rows[-1]
    folder = Path(last["folder"])
    assert (last["name"], last["epoch"], last["samples"], last["resumable"]) == ("E2_U12_S96", 2, 96, True)
    assert last["size"] == sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_a_damaged_checkpoint_is_listed_as_such(trained, checkpoint):
    (trained.run_dir / "checkpoints/step-000000000012/manifest.json").write_text("{")
    line = checkpoint("list", "trained").splitlines()[-1]
    assert line.split()[:2] == ["step-000000000012", "12"]
    assert "damaged: manifest.json" in line
    assert "latest" in checkpoint("list", "trained").splitlines()[-2]


def test_a_run_without_checkpoints_has_an_empty_list(trained, checkpoint):
    for step in (trained.run_dir / "checkpoints").iterdir():
        step.rename(trained.run_dir / step.name)
    assert checkpoint("list", "trained") == "nothing found\n"
    assert json.loads(checkpoint("list", "trained", "--json")) == []


def test_a_missing_run_is_reported(trained, noether_command):
    ended = noether_command("checkpoint", "list", "trianed")
    assert ended.code == 2
    assert "Did you mean 'trained'?" in ended.err


def test_listing_and_verifying_import_no_torch(trained):
    for verb in ("list", "verify", "verify --all"):
        arguments = ["noether", "checkpoint", *verb.split(), str(trained.run_dir)]
        code = (
            "import sys\nfrom noether.cli.main import app\n"
            f"sys.argv = {arguments!r}\n"
            "try:\n    app()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
            "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


# show


def test_show_tells_counters_files_tensors_and_whose_state_it_is(lab, finish, checkpoint):
    finish({"trainer.callbacks": [STATS, EVERY_UPDATE]}, run_id="trained")
    out = checkpoint("show", "trained", "last")
    assert "names      E2_U12_S96, latest, last" in out
    assert "counters   epoch 2, update 12, 96 samples" in out
    assert "parent     step-000000000011" in out
    assert "callbacks  counts" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["model.safetensors", "layers.0.weight", "8x3", "float32"] in rows


def test_show_as_json_holds_hashes_and_shapes(trained, checkpoint):
    shown = json.loads(checkpoint("show", "trained", "E1_U7_S56", "--json"))
    files = {file["file"]: file for file in shown["files"]}
    assert shown["update"] == 7
    assert len(files["trainer.json"]["sha256"]) == 64
    assert files["model.safetensors"]["tensors"]["layers.2.bias"] == {"shape": [2], "dtype": "float32"}


def test_show_of_a_misspelt_name_lists_the_right_ones(trained, noether_command):
    ended = noether_command("checkpoint", "show", "trained", "best_model.loss.tset.total")
    assert ended.code == 3
    assert "Did you mean 'best_model.loss.test.total'?" in ended.err
    assert "help: it has " in ended.err


def test_show_of_a_damaged_checkpoint_is_refused(trained, noether_command):
    (trained.run_dir / "checkpoints/step-000000000012/model.safetensors").write_bytes(b"")
    ended = noether_command("checkpoint", "show", "trained", "last")
    assert ended.code == 3
    assert "model.safetensors" in ended.err


# pin, prune


def test_pruning_keeps_the_newest_the_named_and_the_pinned(trained, checkpoint, updates):
    assert "E0_U3_S24 is pinned" in checkpoint("pin", "trained", "E0_U3_S24")
    assert [step["pinned"] for step in json.loads(checkpoint("list", "trained", "--json"))][2]
    out = checkpoint("prune", "trained", "--keep-last", "2")
    assert out.count("removed ") == 9
    assert updates() == [3, 11, 12]


def test_what_is_unpinned_goes_with_the_next_pruning(trained, checkpoint, updates):
    checkpoint("pin", "trained", "E0_U3_S24")
    assert checkpoint("unpin", "trained", "E0_U3_S24") == "E0_U3_S24 is no longer pinned\n"
    assert checkpoint("unpin", "trained", "E0_U3_S24") == "E0_U3_S24 is not pinned\n"
    checkpoint("prune", "trained", "--keep-last", "1")
    assert updates() == [12]


def test_the_best_checkpoint_is_never_pruned(finish, checkpoint, updates):
    still = {"model.optimizer": {"kind": "SGD", "lr": 0.0}}  # so that no epoch is better than the first
    callbacks = [OFFLINE_LOSS, BEST, EVERY_UPDATE]
    finish({**still, "checkpoints.keep_last": 12, "trainer.callbacks": callbacks}, run_id="trained")
    checkpoint("prune", "trained", "--keep-last", "1")
    assert updates() == [6, 12]


def test_a_dry_run_says_what_pruning_would_remove_and_removes_nothing(trained, checkpoint, updates):
    out = checkpoint("prune", "trained", "--keep-last", "10", "--dry-run")
    assert [line.split()[:3] for line in out.splitlines()] == [
        ["would", "remove", name] for name in ("E0_U1_S8", "E0_U2_S16")
    ]
    assert len(updates()) == 12
    assert checkpoint("prune", "trained", "--keep-last", "10") == out.replace("would remove", "removed")


def test_how_many_stay_is_what_the_run_has_said(trained, checkpoint, updates):
    assert checkpoint("prune", "trained") == "nothing to remove\n"
    assert len(updates()) == 12


def test_a_run_that_is_training_is_not_pruned(trained, noether_command, updates):
    with RunLock(trained.run_dir):
        ended = noether_command("checkpoint", "prune", "trained", "--keep-last", "1")
    assert ended.code == 2
    assert "is in use" in ended.err
    assert len(updates()) == 12
