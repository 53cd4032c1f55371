"""Checkpoints are mirrored to another store, and a run goes on from there on a machine without its folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noether.checkpoint.paths import checkpoint_folders
from noether.errors import StorageError, UsageError
from noether.runs.mirror import feed
from noether.runs.mirror.store import Store
from noether.runs.outcome import Outcome
from noether.runs.resume.resume import preview, resume

pytest.importorskip("fsspec")


@pytest.fixture
def mirrored(settings: dict[str, Any], workplace: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The settings of a run with a mirror in a folder."""
    monkeypatch.setattr(feed, "pause_s", lambda failures: 0.01)
    return {**settings, "checkpoints.mirror": f"file://{workplace}/mirror", "checkpoints.mirror_timeout_s": 20}


@pytest.fixture
def whole(mirrored: dict[str, Any]) -> dict[str, Any]:
    """The same run without its failure."""
    callbacks = [each for each in mirrored["trainer.callbacks"] if "Fails" not in each["kind"]]
    return {**mirrored, "trainer.callbacks": callbacks}


@pytest.fixture
def store(mirrored: dict[str, Any]) -> Store:
    """The mirror of the run `mine`."""
    return Store(mirrored["checkpoints.mirror"], "mine")


@pytest.fixture
def lost(run: Callable[..., Outcome], mirrored: dict[str, Any]) -> Outcome:
    """The run `mine`, which failed after update 8; its machine is gone, and only the mirror is left."""
    outcome = run(mirrored, run_id="mine")
    assert outcome.status == "FAILED"
    shutil.rmtree(outcome.run_dir)
    return outcome


def updates_in(run: Path) -> list[int]:
    return [int(folder.name.removeprefix("step-")) for folder in checkpoint_folders(run / "checkpoints")]


def log_of(outcome: Outcome) -> str:
    return (outcome.run_dir / "log.txt").read_text()


# The same bytes


def test_a_run_goes_on_from_its_mirror_and_ends_with_the_same_bytes(
    lost, finish, mirrored, uninterrupted, remains, store
):
    resumed = finish(mirrored, run_id="mine", resume="auto")
    assert remains(resumed) == remains(uninterrupted)
    assert set(updates_in(resumed.run_dir)) <= set(store.updates())
    assert json.loads((resumed.run_dir / "attempts" / "0002.json").read_text())["status"] == "FINISHED"


def test_resume_takes_the_address_of_a_run_in_a_mirror(lost, mirrored, uninterrupted, remains, store):
    resumed = resume(f"{mirrored['checkpoints.mirror']}/mine", quiet=True)
    assert remains(resumed) == remains(uninterrupted)
    assert max(store.updates()) == 12


def test_a_mirror_changes_nothing_of_the_training(finish, whole, uninterrupted, remains):
    outcome = finish(whole, run_id="mine")
    assert remains(outcome) == remains(uninterrupted)
    assert updates_in(outcome.run_dir) == updates_in(uninterrupted.run_dir)


def test_results_come_along(run, mirrored, lab, workplace):
    logs = {"kind": "lab.results.Draws", "every_n_updates": 2}
    changes = {**mirrored, "trainer.callbacks": [*mirrored["trainer.callbacks"], logs]}
    before = run(changes, run_id="mine").run_dir.rename(workplace / "before")
    resumed = run(changes, run_id="mine", resume="auto").run_dir
    names = [path.relative_to(before) for path in before.glob("results/*/*") if path.stem <= "U000000000006"]
    assert names
    assert all((resumed / name).read_bytes() == (before / name).read_bytes() for name in names)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_a_store_of_metrics_in_a_file_gets_a_run_with_all_metrics(run, finish, mirrored, workplace):
    from mlflow import MlflowClient

    settings = {**mirrored, "trackers": [{"kind": "mlflow"}]}
    shutil.rmtree(run(settings, run_id="mine").run_dir)
    finish(settings, run_id="mine", resume="auto")
    client = MlflowClient(tracking_uri=f"sqlite:///{workplace}/mlflow.db")
    tracked, _ = client.search_runs([each.experiment_id for each in client.search_experiments()])  # newest first
    points = client.get_metric_history(tracked.info.run_id, "Evaluation/loss test total")
    assert [point.step for point in points] == [2, 4, 6, 8, 10, 12]


def test_a_damaged_object_is_named_and_the_checkpoint_before_it_is_taken(
    lost, run, mirrored, uninterrupted, remains, store, workplace
):
    blob = store.entry(max(store.updates())).manifest.files["model.safetensors"].sha256
    path = workplace / "mirror" / "mine" / "blobs" / blob
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    newest = max(store.updates())
    resumed = run(mirrored, run_id="mine", resume="auto")
    assert f"step-{newest:012d}" in log_of(resumed)
    assert remains(resumed) == remains(uninterrupted)


# A store that does not answer: a file lies in the place of its folder


def test_a_store_that_is_down_all_the_time_costs_warnings_only(finish, whole, uninterrupted, remains, workplace, store):
    (workplace / "mirror").write_text("")
    outcome = finish(whole, run_id="mine")
    assert remains(outcome) == remains(uninterrupted)
    assert log_of(outcome).count("Training is not affected") == 2  # before it, and in it
    assert "step-000000000012" in log_of(outcome).splitlines()[-2]
    (workplace / "mirror").unlink()
    finish(whole, run_id="mine", resume="auto")  # it has ended, and uploads the rest
    assert store.updates() == updates_in(outcome.run_dir)


def test_a_store_that_goes_down_and_comes_back_gets_everything(finish, whole, workplace, store, lab):
    switch = {"kind": "lab.stores.Outage", "every_n_updates": 1, "folder": "mirror", "begin": 4, "end": 9}
    outcome = finish({**whole, "trainer.callbacks": [*whole["trainer.callbacks"], switch]}, run_id="mine")
    assert store.updates() == updates_in(outcome.run_dir)
    assert "answers again" in log_of(outcome)


def test_a_run_that_may_exist_elsewhere_is_not_begun_anew_while_its_mirror_is_down(run, mirrored, workplace):
    (workplace / "mirror").write_text("")
    with pytest.raises(StorageError, match="no answer from the mirror"):
        run(mirrored, run_id="mine", resume="auto")
    assert not (workplace / "runs" / "mine").exists()


def test_a_store_that_hangs_is_given_up_at_the_end(finish, whole, monkeypatch):
    monkeypatch.setattr(feed._Uploader, "_send", lambda self, message: None)
    monkeypatch.setattr("noether.runs.mirror.fetch._SHORT_PATIENCE_S", 0.1)
    outcome = finish({**whole, "checkpoints.mirror_timeout_s": 0.1}, run_id="mine")
    assert "before everything was uploaded" in log_of(outcome)
    assert not any(thread.name == "mirror" for thread in threading.enumerate())


def test_if_the_process_that_uploads_is_killed_another_one_takes_over(finish, whole, store, monkeypatch):
    start = feed._Uploader._start
    killed = []

    def start_and_kill(self):
        start(self)
        if len(killed) < 2:
            killed.append(self._process)
            self._process.kill()

    monkeypatch.setattr(feed._Uploader, "_start", start_and_kill)
    outcome = finish(whole, run_id="mine")
    assert len(killed) == 2
    assert store.updates() == updates_in(outcome.run_dir)


# Killed in the middle


@pytest.mark.parametrize(
    "objects", [pytest.param(3, marks=pytest.mark.long), 14, pytest.param(40, marks=pytest.mark.long)]
)
def test_a_run_that_is_killed_between_the_files_of_an_upload_goes_on_from_the_mirror(
    lab, workplace, tiny_spec, whole, finish, uninterrupted, remains, store, objects
):
    """Of three objects, none is an entry, and the run begins anew."""
    spec = {"spec": tiny_spec, "set": whole, "run_id": "mine", "quiet": True}
    command = [sys.executable, str(lab / "dying.py"), json.dumps(spec), str(workplace / "mirror"), str(objects)]
    environment = {**os.environ, "PYTHONPATH": str(workplace)}
    assert subprocess.run(command, cwd=workplace, env=environment, check=False).returncode == -signal.SIGKILL
    shutil.rmtree(workplace / "runs" / "mine")
    resumed = finish(whole, run_id="mine", resume="auto")
    assert remains(resumed) == remains(uninterrupted)
    assert max(store.updates()) == 12


# Two runs with one id


def test_a_second_run_of_one_id_is_refused_before_training(lost, run, mirrored, workplace):
    with pytest.raises(UsageError, match="the mirror holds a run of this id"):
        run(mirrored, run_id="mine")
    with pytest.raises(UsageError, match="the mirror holds a run of this id"):
        run(mirrored, run_id="mine", resume="none")
    assert not (workplace / "runs" / "mine").exists()


def test_a_run_that_another_machine_continued_is_fetched_and_the_own_folder_is_kept(
    run, finish, mirrored, workplace, uninterrupted, remains
):
    here = run(mirrored, run_id="mine").run_dir
    there = {**mirrored, "output": str(workplace / "there")}
    finish(there, run_id="mine", resume="auto")
    with pytest.raises(UsageError, match="continued on another machine"):
        resume(here, checkpoint="E0_U3_S24", overrides=[f"checkpoints.mirror={mirrored['checkpoints.mirror']}"])
    back = run(mirrored, run_id="mine", resume="auto")
    assert remains(back) == remains(uninterrupted)
    assert updates_in(workplace / "runs" / "mine.before")


def test_the_first_of_two_attempts_stops_uploading_when_the_second_begins(finish, whole, store, lab):
    claims = {"kind": "lab.stores.Claims", "every_n_updates": 1, "at_update": 5}
    claims["address"] = whole["checkpoints.mirror"]
    outcome = finish({**whole, "trainer.callbacks": [*whole["trainer.callbacks"], claims]}, run_id="mine")
    assert "belongs to another" in log_of(outcome)
    assert 12 not in store.updates()


# Addresses


def test_an_address_that_only_the_run_folder_names_is_refused(run, mirrored, workplace):
    outcome = run(mirrored, run_id="mine")
    with pytest.raises(UsageError, match="may come from a stranger"):
        resume(outcome.run_dir)
    shutil.rmtree(workplace / "mirror")
    resume(outcome.run_dir, overrides=["checkpoints.keep_last=9"], unset=["checkpoints.mirror"], quiet=True)
    assert not (workplace / "mirror").exists()


@pytest.mark.parametrize("address", ["mirror", "s3:/bucket", "s3://b?sig=1", "simplecache::s3://b", "s3://a b", "://x"])
def test_an_address_that_is_no_url_is_refused(run, mirrored, address):
    with pytest.raises(UsageError):
        run({**mirrored, "checkpoints.mirror": address})


def test_a_url_that_fsspec_does_not_know_is_refused_before_training(run, mirrored, workplace):
    with pytest.raises(UsageError, match="nonsense"):
        run({**mirrored, "checkpoints.mirror": "nonsense://bucket/runs"})
    assert not (workplace / "runs").exists()


def test_without_fsspec_the_error_names_the_extra(run, mirrored, monkeypatch, workplace):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(UsageError) as error:
        run(mirrored)
    assert "noether-train[mirror]" in str(error.value.hint)
    assert not (workplace / "runs").exists()


def test_a_password_in_the_address_is_refused_and_one_of_the_environment_stays_there(
    run, mirrored, monkeypatch, workplace, capfd
):
    secret = "hunter2222"
    with pytest.raises(UsageError) as error:
        run({**mirrored, "checkpoints.mirror": f"sftp://me:{secret}@127.0.0.1/runs"})
    assert secret not in str(error.value)
    monkeypatch.setenv("MIRROR", f"file://me:{secret}@{workplace}/mirror")
    outcome = run({**mirrored, "checkpoints.mirror": {"env": "MIRROR"}, "trainer.max_epochs": 1}, run_id="mine")
    kept = [path for path in outcome.run_dir.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert kept == []
    assert secret not in "".join(capfd.readouterr())


def test_a_dry_run_of_an_address_is_refused(mirrored):
    with pytest.raises(UsageError, match="cannot preview"):
        preview(f"{mirrored['checkpoints.mirror']}/mine")
