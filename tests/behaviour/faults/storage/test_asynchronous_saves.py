"""Runs that train while checkpoints are written: the same checkpoints, each reported and committed."""

import errno
import json
import os
import signal
import threading
import time

import pytest

from noether.checkpoint import durable
from noether.checkpoint.paths import checkpoint_folders, read_checkpoint, update_of
from noether.errors import StorageError

EVERY_UPDATE = {"kind": "checkpoint", "every_n_updates": 1}
EVERY_SECOND = {"kind": "checkpoint", "every_n_updates": 2}
ASYNCHRONOUS = {
    "trainer.callbacks": [EVERY_UPDATE],
    "checkpoints.keep_last": 99,
    "checkpoints.asynchronous": True,
}
BEST = [
    {"kind": "offline-loss", "every_n_updates": 1, "dataset_key": "test"},
    {"kind": "best-checkpoint", "every_n_updates": 1, "metric_key": "loss/test/total", "tolerances": [1]},
    {"kind": "ema", "every_n_updates": 3, "target_factors": [0.9]},
]


@pytest.fixture
def slow_disk(disk_class, monkeypatch):
    """Makes the disk slow, and refuse files of the steps of some updates; returns which thread wrote which update."""

    def use(seconds=0.0, refused=()):
        writers = {}

        class Slow(disk_class):
            def before(self, operation, path, *more):
                super().before(operation, path)
                step = next((part for part in path.parts if "step-" in part), None)
                if operation != "write" or step is None:
                    return
                update = int(step.partition("step-")[2][:12])
                writers[update] = threading.current_thread().name
                time.sleep(seconds if path.name == "manifest.json" else 0)
                if update in refused:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(durable, "os", Slow())
        return writers

    return use


@pytest.fixture
def told(lab):
    """Return a callback that records reported checkpoints, and a function that reads its records."""
    (lab / "listening.py").write_text(
        "import threading\n"
        "from pathlib import Path\n"
        "from noether.core.callbacks import PeriodicCallback\n"
        "class Listening(PeriodicCallback):\n"
        "    def checkpoint_committed(self, *, checkpoint):\n"
        "        note = f'{int(checkpoint.name[5:])} {checkpoint.exists()} {threading.current_thread().name}'\n"
        "        with Path('told.txt').open('a') as file:\n"
        "            print(note, file=file)\n"
    )

    def read():
        return [line.split() for line in (lab.parent / "told.txt").read_text().splitlines()]

    return {"kind": "lab.listening.Listening", "every_n_updates": 1}, read


def saved(outcome):
    steps = checkpoint_folders(outcome.run_dir / "checkpoints")
    for step in steps:
        read_checkpoint(step)
    return [update_of(step) for step in steps]


def contents(outcome):
    """Return the contents of the checkpoints of a run, without specs and without the length of the metrics."""
    found = {}
    for step in checkpoint_folders(outcome.run_dir / "checkpoints"):
        manifest, files = read_checkpoint(step)
        tree = json.loads(files.pop("trainer.json"))
        del tree["trainer"]["log_writer"]["metrics"]
        files.pop("spec.resolved.toml", None)
        found[step.name] = (files, tree, manifest.names, manifest.parent, manifest.resumable, manifest.finite)
    return found


def test_all_steps_are_those_of_a_run_that_waits_for_its_saves(finish, slow_disk):
    spec = ASYNCHRONOUS | {"trainer.callbacks": [*BEST, EVERY_SECOND], "model.dropout": 0.2, "checkpoints.keep_last": 2}
    straight = finish(spec | {"checkpoints.asynchronous": False}, run_id="straight")
    slow_disk(seconds=0.01)
    assert contents(finish(spec, run_id="asynchronous")) == contents(straight)


def test_a_refused_save_ends_the_run_at_the_next_boundary(run, slow_disk):  # B1
    writers = slow_disk(refused={3})
    outcome = run(ASYNCHRONOUS)
    assert outcome.exit_code == 1
    assert isinstance(outcome.error, StorageError)
    assert "step-000000000003" in outcome.error.message
    assert saved(outcome) == [1, 2]
    assert max(writers) == 3, "no save is begun after it"


def test_a_refused_save_that_nothing_follows_ends_the_run_too(run, slow_disk):  # B1
    slow_disk(refused={10})
    outcome = run(ASYNCHRONOUS | {"trainer.callbacks": [{"kind": "checkpoint", "every_n_updates": 10}]})
    assert outcome.exit_code == 1
    assert isinstance(outcome.error, StorageError)


def test_warn_goes_on_and_saves_at_the_next_trigger(run, slow_disk):  # B1
    slow_disk(refused={2, 3, 4, 6, 7, 8})
    outcome = run(ASYNCHRONOUS | {"checkpoints.on_save_error": "warn"})
    assert outcome.exit_code == 0
    assert saved(outcome) == [1, 5, 9, 10, 11, 12]
    assert (outcome.run_dir / "log.txt").read_text().count("failed save 3 of 3") == 2


def test_sigterm_commits_what_is_in_flight_and_then_the_update_that_it_met(run, lab, slow_disk):
    writers = slow_disk(seconds=0.3)
    sends = {"kind": "lab.callbacks.Signals", "every_n_updates": 1, "numbers": [int(signal.SIGTERM)], "at_update": 3}
    outcome = run(ASYNCHRONOUS | {"trainer.callbacks": [EVERY_SECOND, sends]})
    assert (outcome.status, outcome.exit_code) == ("KILLED", 143)
    assert saved(outcome) == [2, 3]
    assert writers == {2: "checkpoint", 3: "MainThread"}


def test_a_run_that_fails_commits_what_is_in_flight(run, lab, slow_disk, told):
    slow_disk(seconds=0.3)
    listening, notes = told
    fault = {
        "kind": "lab.faults.Fault",
        "every_n_updates": 1,
        "hook": "after_update",
        "action": "raise",
        "at_update": 3,
    }
    outcome = run(ASYNCHRONOUS | {"trainer.callbacks": [EVERY_SECOND, listening, fault]})
    assert outcome.status == "FAILED"
    assert saved(outcome) == [2]
    assert notes() == [["2", "True", "MainThread"]]
    assert all(thread.name != "checkpoint" for thread in threading.enumerate())


def test_a_run_that_fails_says_so_where_the_save_in_flight_fails_too(run, lab, slow_disk):
    slow_disk(seconds=0.2, refused={2})
    fault = {
        "kind": "lab.faults.Fault",
        "every_n_updates": 1,
        "hook": "after_update",
        "action": "raise",
        "at_update": 3,
    }
    outcome = run(ASYNCHRONOUS | {"trainer.callbacks": [EVERY_SECOND, fault]})
    assert outcome.status == "FAILED"
    assert not isinstance(outcome.error, StorageError)
    assert any("the checkpoint that was being written then failed as well" in note for note in outcome.error.__notes__)


@pytest.mark.parametrize("seconds", [0.0, 0.03])
def test_every_checkpoint_is_reported_once_after_it_is_committed_on_the_training_thread(
    finish, slow_disk, told, seconds
):
    slow_disk(seconds)
    listening, notes = told
    finish(ASYNCHRONOUS | {"trainer.callbacks": [EVERY_UPDATE, listening]})
    assert notes() == [[str(update), "True", "MainThread"] for update in range(1, 13)]


def test_how_long_training_waited_is_a_metric(finish, slow_disk, metric_lines):
    slow_disk(seconds=0.05)
    lines = metric_lines(finish(ASYNCHRONOUS | {"trainer.track_every_n_updates": 3}))
    waited = [
        line["metrics"]["profiling/checkpoint_wait"] for line in lines if "profiling/checkpoint_wait" in line["metrics"]
    ]
    assert waited
    assert max(waited) > 0.03
