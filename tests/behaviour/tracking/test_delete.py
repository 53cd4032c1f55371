"""`noether runs delete` removes the run of the user's own tracker that was created for this run, and nothing else."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

import noether

WITH_MLFLOW = {"trackers": [{"kind": "mlflow"}], "trainer.max_epochs": 1}


@pytest.fixture
def client(database):
    return MlflowClient(tracking_uri=f"sqlite:///{database}")


@pytest.fixture
def tracked(database, tiny_spec):
    """Two runs in the database of the working folder."""
    for run_id in ("one", "two"):
        noether.run(tiny_spec, set=WITH_MLFLOW, run_id=run_id, quiet=True)
    return Path("runs")


@pytest.fixture
def alive(client):
    """Returns the run ids of the MLflow runs that are not deleted."""

    def look():
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return sorted(run.data.tags["noether.run_id"] for run in client.search_runs(experiments))

    return look


def test_a_deleted_run_is_marked_as_deleted_in_mlflow_and_the_others_stay(tracked, alive, noether_command):
    assert alive() == ["one", "two"]
    ended = noether_command("runs", "delete", "one", "--yes")
    assert ended.code == 0, ended
    assert "and its run in your own mlflow" in ended.out
    assert "mlflow: removed the run at sqlite:///" in ended.out
    assert alive() == ["two"]
    assert not (tracked / "one").exists()


def test_the_run_of_the_tracker_can_be_kept_and_a_dry_run_asks_no_tracker(tracked, alive, noether_command):
    assert noether_command("runs", "delete", "one", "--dry-run").code == 0
    assert alive() == ["one", "two"]
    assert noether_command("runs", "delete", "one", "--yes", "--keep-tracker").code == 0
    assert alive() == ["one", "two"]


def test_a_copy_of_a_run_takes_nothing_from_the_run_that_it_copies(tracked, alive, noether_command):
    shutil.copytree(tracked / "one", tracked / "copy")
    ended = noether_command("runs", "delete", "copy", "--yes")
    assert (ended.code, "found no such run" in ended.out) == (0, True), ended
    assert alive() == ["one", "two"]


def test_a_folder_that_names_the_mlflow_run_of_another_one_takes_nothing(tracked, alive, noether_command):
    first, second = ((tracked / name / "spool" / "mlflow.json") for name in ("one", "two"))
    body = json.loads(first.read_text())
    body["reference"]["run_id"] = json.loads(second.read_text())["reference"]["run_id"]
    body["token"] = "made-up"
    first.write_text(json.dumps(body))
    assert noether_command("runs", "delete", "one", "--yes").code == 0
    assert alive() == ["one", "two"]


def test_an_mlflow_run_of_the_same_id_and_another_token_stays(tracked, alive, noether_command):
    spool = tracked / "one" / "spool" / "mlflow.json"
    spool.write_text(json.dumps(json.loads(spool.read_text()) | {"token": "of-another-run"}))
    assert noether_command("runs", "delete", "one", "--yes").code == 0
    assert alive() == ["one", "two"]


def test_the_run_is_found_by_its_token_if_its_id_was_never_kept(tracked, alive, noether_command):
    spool = tracked / "one" / "spool" / "mlflow.json"
    body = json.loads(spool.read_text())
    del body["reference"]["run_id"]
    spool.write_text(json.dumps(body))
    assert noether_command("runs", "delete", "one", "--yes").code == 0
    assert alive() == ["two"]


def test_a_run_that_was_deleted_in_mlflow_already_is_no_obstacle(tracked, client, alive, noether_command):
    reference = json.loads((tracked / "one" / "spool" / "mlflow.json").read_text())["reference"]
    client.delete_run(reference["run_id"])
    ended = noether_command("runs", "delete", "one", "--yes")
    assert (ended.code, "found no such run" in ended.out) == (0, True), ended


def test_a_tracker_that_cannot_be_reached_keeps_the_folder_unless_told_otherwise(
    workplace, fake_server, tiny_spec, noether_command, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fake_server.address)
    noether.run(tiny_spec, set=WITH_MLFLOW, run_id="one", quiet=True)
    fake_server.down()
    ended = noether_command("runs", "delete", "one", "--yes")
    assert (ended.code, "--keep-tracker" in ended.err) == (1, True), ended
    assert fake_server.address in ended.err
    assert Path("runs/one/run.json").exists()
    assert noether_command("runs", "delete", "one", "--yes", "--keep-tracker").code == 0
    assert not Path("runs/one").exists()


def test_a_store_that_only_the_folder_names_is_never_asked(
    workplace, database, fake_server, tiny_spec, noether_command, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fake_server.address)
    noether.run(tiny_spec, set=WITH_MLFLOW, run_id="one", quiet=True)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    before = len(fake_server.requests)
    ended = noether_command("runs", "delete", "one", "--yes")
    assert (ended.code, "--keep-tracker" in ended.err) == (1, True), ended
    assert len(fake_server.requests) == before
    assert Path("runs/one/run.json").exists()


PLAIN = """
from noether.core.trackers import BaseTracker
class Plain(BaseTracker):
    def open(self, run): pass
    def log_metrics(self, records): pass
    def close(self, status, error): pass
class Failing(Plain):
    def forget(self, run): raise RuntimeError("out of order")
"""


@pytest.fixture
def own_trackers(workplace, monkeypatch):
    """A module of the project with trackers of its own."""
    (workplace / "mine.py").write_text(PLAIN)
    monkeypatch.syspath_prepend(workplace)
    yield
    sys.modules.pop("mine", None)


def test_a_tracker_that_removes_no_runs_is_said_to_keep_them(own_trackers, tiny_spec, noether_command):
    noether.run(tiny_spec, set={"trackers": [{"kind": "mine.Plain"}]}, run_id="one", quiet=True)
    ended = noether_command("runs", "delete", "one", "--yes")
    assert (ended.code, "does not remove runs" in ended.out) == (0, True), ended
    assert not Path("runs/one").exists()


def test_a_tracker_that_fails_keeps_the_folder(own_trackers, tiny_spec, noether_command):
    noether.run(tiny_spec, set={"trackers": [{"kind": "mine.Failing"}]}, run_id="one", quiet=True)
    ended = noether_command("runs", "delete", "one", "--yes")
    assert (ended.code, "RuntimeError: out of order" in ended.err) == (1, True), ended
    assert Path("runs/one/run.json").exists()
