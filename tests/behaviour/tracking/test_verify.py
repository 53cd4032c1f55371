"""`tracker sync --verify` finds what a server lost, doubled or changed, and sends again what is missing."""

import hashlib
import json
from pathlib import Path

import pytest

import noether
from noether.core.trackers import BaseTracker
from noether.core.trackers.mlflow import MlflowTracker
from noether.core.trackers.mlflow.config import Names
from noether.runs.tracking.sync import sync_trackers

# MLflow's own models use what SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

BLIND = """
from noether.core.trackers import BaseTracker

class Tracker(BaseTracker):
    def open(self, run): pass
    def log_metrics(self, records): pass
    def close(self, status, error): pass
"""


@pytest.fixture
def finished(tiny_spec, fake_server):
    """The folder of a run that the server has seen to its end."""

    def run(mode="ok"):
        fake_server.mode = mode
        table = {"kind": "mlflow", "tracking_uri": fake_server.address}
        run_dir = noether.run(tiny_spec | {"trackers": [table]}, run_id="r", quiet=True).run_dir
        fake_server.mode = "ok"
        return run_dir

    return run


@pytest.fixture
def verify(fake_server):
    def verified():
        (synced,) = sync_trackers("r", store=fake_server.address, verify=True)
        return synced

    return verified


def points_in(run_dir):
    """The number of points of a run that MLflow shows as points: counts are parameters."""
    lines = [json.loads(line)["metrics"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return sum(not Names().is_parameter(key) for metrics in lines for key in metrics)


def test_a_server_that_has_everything_is_told_so(finished, verify):
    run_dir = finished()
    synced = verify()
    assert (synced.error, synced.missing, synced.resent, synced.points) == ("", 0, 0, points_in(run_dir))


def test_a_tracker_that_rounds_is_compared_in_its_own_precision(finished, verify, monkeypatch):
    finished()
    exact = MlflowTracker.logged

    def logged(self, keys):
        points = exact(self, keys)
        return {key: {at: [round(one, 2) for one in values] for at, values in points[key].items()} for key in points}

    monkeypatch.setattr(MlflowTracker, "logged", logged)
    assert verify().error
    monkeypatch.setattr(MlflowTracker, "rounded", lambda self, value: round(value, 2))
    assert not verify().error


def test_a_server_that_accepts_and_forgets_is_found_out_and_gets_everything_again(
    finished, verify, fake_server, noether_command
):
    run_dir = finished("forget")
    assert not fake_server.run.points
    plain = noether_command("tracker", "sync", "r", "--store", fake_server.address)
    assert (plain.code, plain.out) == (0, "mlflow: has everything, FINISHED\n")
    fake_server.mode = "forget"
    still = noether_command("tracker", "sync", "r", "--store", fake_server.address, "--verify")
    assert still.code == 1
    assert f"it lacks {points_in(run_dir)} of {points_in(run_dir)} points" in still.out
    fake_server.mode = "ok"
    synced = verify()
    assert (synced.error, synced.resent) == ("", points_in(run_dir))
    assert len(fake_server.run.points) == points_in(run_dir)
    assert verify().resent == 0


def test_single_points_that_are_missing_are_named_and_sent(finished, fake_server, noether_command):
    finished()
    for point in [point for point in fake_server.run.points if point[2] in (3, 5) and point[0] == "optim/lr"]:
        del fake_server.run.points[point]
    synced = noether_command("tracker", "sync", "r", "--store", fake_server.address, "--verify")
    assert synced.code == 0
    assert "'optim/lr' at update 3" in synced.out
    assert "2 points were sent again" in synced.out
    assert [step for step, _ in fake_server.run.curve("optim/lr")].count(3) == 1


def test_points_that_are_there_twice_or_have_another_value_are_named(finished, verify, fake_server):
    finished()
    points = fake_server.run.points
    key, timestamp, step, value = next(point for point in points if point[0] == "optim/lr")
    points[key, timestamp + 1, step, value] = True
    loss = next(point for point in points if point[0] == "loss/online/total")
    del points[loss]
    points[(*loss[:3], 99.0)] = True
    error = verify().error
    assert f"has twice 1 of {len(points) - 1} points: 'optim/lr' at update {step}" in error
    assert "has other values of 1" in error


def test_timings_may_differ(finished, verify, fake_server):
    finished()
    points = fake_server.run.points
    for point in [point for point in points if point[0].startswith("system/profiling/")]:
        del points[point]
        points[(*point[:3], 99.0)] = True
    assert verify().error == ""


def test_a_tracker_that_cannot_look_points_up_is_not_called_verified(
    tiny_spec, workplace, monkeypatch, noether_command
):
    (workplace / "blind.py").write_text(BLIND)
    monkeypatch.syspath_prepend(workplace)
    noether.run(tiny_spec | {"trackers": [{"kind": "blind.Tracker"}]}, run_id="r", quiet=True)
    verified = noether_command("tracker", "sync", "r", "--verify")
    assert verified.code == 1
    assert "cannot be verified" in verified.out


KINDS = {"figure", "table", "histogram", "file"}


@pytest.fixture
def with_results(tiny_spec, database, lab):
    """The folder of the artifacts of a run that has added results of every kind, and its lines."""
    tiny_spec["trainer"]["callbacks"] = [{"kind": "lab.results.Draws", "every_n_updates": 6}]
    noether.run(tiny_spec | {"trackers": [{"kind": "mlflow"}]}, run_id="r", quiet=True)
    listed = [json.loads(line) for line in Path("runs/r/results.jsonl").read_text().splitlines()]
    assert {line["kind"] for line in listed} == KINDS
    (artifacts,) = (path.parent for path in Path("mlartifacts").rglob("results"))
    return artifacts, listed


def verified():
    (synced,) = sync_trackers("r", verify=True)
    return synced


def test_results_are_compared_too(with_results):
    _, listed = with_results
    synced = verified()
    assert (synced.error, synced.compared, synced.resent) == ("", len(listed), 0)


def test_results_that_are_missing_or_changed_are_named_and_sent_again(with_results, noether_command):
    artifacts, listed = with_results
    harmed = {line["kind"]: line for line in listed}
    for kind, line in harmed.items():
        path = artifacts / line["file"]
        path.write_bytes(path.read_bytes()[:-1] + (b"" if kind == "table" else b"?"))
        if kind == "file":
            path.unlink()
    for image in (artifacts / "images").iterdir():
        image.unlink()
    figures = [line for line in listed if line["kind"] == "figure"]
    synced = noether_command("tracker", "sync", "r", "--verify", "--json")
    assert synced.code == 0
    (answer,) = json.loads(synced.out)
    assert answer["resent"] == len(figures) + len(harmed) - 1
    assert any(lost.startswith("figure 'noise' at update 6") for lost in answer["lost"])
    for line in listed:
        assert hashlib.sha256((artifacts / line["file"]).read_bytes()).hexdigest() == line["sha256"]
    assert len(list((artifacts / "images").glob("*.png"))) == len(figures)
    assert f"and {len(listed)} results verified" in noether_command("tracker", "sync", "r", "--verify").out


def test_a_result_that_the_run_folder_lost_too_is_still_missing(with_results):
    artifacts, listed = with_results
    for place in (artifacts, Path("runs/r")):
        (place / listed[0]["file"]).unlink()
    synced = verified()
    assert (synced.missing, synced.resent) == (1, 0)
    assert f"it lacks 1 of {len(listed)} results" in synced.error


def test_results_are_not_called_verified_by_a_tracker_that_cannot_look_them_up(with_results, monkeypatch):
    monkeypatch.setattr(MlflowTracker, "results_missing", BaseTracker.results_missing)
    synced = verified()
    assert synced.compared == 0
    assert "results cannot be verified" in synced.error
