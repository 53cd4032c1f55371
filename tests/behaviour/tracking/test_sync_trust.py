"""`tracker sync` sends a run to the user's own store only, and only what the run has written."""

import hashlib
import json
import os
import shutil
import sys
import threading
from pathlib import Path

import pytest

import noether
from noether.checkpoint.commit import RunLostError
from noether.runs.folder.lock import RunLock

EVIL = """
from pathlib import Path
Path("executed").touch()
from noether.core.trackers import NoopTracker
class Tracker(NoopTracker):
    wants_metrics = True
"""

DRAWS = """
from pathlib import Path
from noether.core.callbacks import PeriodicCallback

class Drawing(PeriodicCallback):
    def periodic_callback(self, *, update_counter, **_):
        for key in ("kept", "changed", "linked", "piped"):
            Path("given.txt").write_text(key)
            self.writer.add_file(key, "given.txt")
"""


@pytest.fixture
def of_a_stranger(tiny_spec, fake_server, monkeypatch, workplace):
    """A run folder whose tracker was down, and which names the server of the one who made it."""
    monkeypatch.delitem(sys.modules, "draws", raising=False)  # of another test
    (workplace / "draws.py").write_text(DRAWS)
    monkeypatch.syspath_prepend(workplace)
    table = {"kind": "mlflow", "tracking_uri": fake_server.address, "request_timeout_s": 1, "flush_timeout_s": 0.2}
    trainer = tiny_spec["trainer"] | {"callbacks": [{"kind": "draws.Drawing", "every_n_epochs": 2}]}
    fake_server.down()
    run = noether.run(tiny_spec | {"trackers": [table], "trainer": trainer}, run_id="r", quiet=True).run_dir
    for thread in threading.enumerate():
        if thread.name == "tracker-mlflow":  # it may still import mlflow
            thread.join(60)
    fake_server.up()
    yield run
    for name in [name for name in sys.modules if name.partition(".")[0] in ("draws", "evil", "runs")]:
        del sys.modules[name]


@pytest.fixture
def own_server(fake_server_class, tmp_path):
    fake = fake_server_class(tmp_path / "own")
    yield fake
    fake.down()


def asked(server):
    return [call for _, call, _ in server.requests]


def uploaded(server):
    return {str(path.relative_to(server.folder)) for path in server.folder.rglob("*") if path.is_file()}


def test_a_store_that_only_the_folder_names_is_refused_with_both_names_and_the_option(
    of_a_stranger, fake_server, own_server, noether_command, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", own_server.address)
    refused = noether_command("tracker", "sync", "r")
    assert refused.code == 2
    for text in (fake_server.address, own_server.address, f"--store {fake_server.address}"):
        assert text in refused.err
    assert asked(fake_server) == asked(own_server) == []
    assert noether_command("tracker", "sync", "r", "--store", fake_server.address).code == 0
    assert fake_server.run.status == "FINISHED"


def test_a_store_that_only_the_spool_names_is_refused(of_a_stranger, fake_server, noether_command):
    spec = of_a_stranger / "spec.resolved.toml"
    spec.write_text("\n".join(line.replace("tracking_uri", "run_name") for line in spec.read_text().splitlines()))
    refused = noether_command("tracker", "sync", "r")
    assert refused.code == 2, refused
    assert f"--store {fake_server.address}" in refused.err
    assert asked(fake_server) == []


@pytest.mark.parametrize("says", ["environment", "project", "project with other options"])
def test_the_users_own_store_is_that_of_the_environment_or_of_a_spec_of_the_project(
    of_a_stranger, fake_server, noether_command, monkeypatch, workplace, says
):
    if says == "environment":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", fake_server.address)
    else:
        (workplace / "specs").mkdir()
        more = 'experiment = "mine"' if says != "project" else ""
        table = f'[[trackers]]\nkind = "mlflow"\ntracking_uri = "{fake_server.address}"\n{more}\n'
        (workplace / "specs/mine.toml").write_text(table)
    assert noether_command("tracker", "sync", "r").code == 0
    assert fake_server.run.status == "FINISHED"


def test_the_spec_in_the_run_folder_is_no_spec_of_the_project(of_a_stranger, noether_command, monkeypatch):
    monkeypatch.chdir(of_a_stranger)
    assert noether_command("tracker", "sync", ".").code == 2


def test_the_spec_of_another_run_folder_below_specs_is_no_spec_of_the_project(of_a_stranger, noether_command):
    other = Path("specs/download/attempts")
    other.mkdir(parents=True)
    (other.parent / "run.json").write_text("{}")
    (other / "0001.resolved.toml").write_bytes((of_a_stranger / "spec.resolved.toml").read_bytes())
    assert noether_command("tracker", "sync", "r").code == 2


def test_options_that_name_a_place_are_not_taken_from_the_folder(
    of_a_stranger, fake_server, own_server, noether_command
):
    spec = of_a_stranger / "spec.resolved.toml"
    line = f'artifact_location = "{own_server.address}"\ntracking_uri ='
    spec.write_text(spec.read_text().replace("tracking_uri =", line))
    fake_server.experiments = {}
    assert noether_command("tracker", "sync", "r", "--store", fake_server.address).code == 0
    assert asked(own_server) == []
    (created,) = fake_server.created
    assert "artifact_location" not in created


@pytest.mark.parametrize("stands", ["in the project", "beside the run", "in the run"])
def test_a_class_that_lies_with_the_run_is_not_imported(of_a_stranger, noether_command, monkeypatch, workplace, stands):
    spec = of_a_stranger / "spec.resolved.toml"
    evil = {"in the project": "runs.evil", "beside the run": "evil", "in the run": "evil"}[stands]
    here = {"in the project": workplace, "beside the run": workplace / "runs", "in the run": of_a_stranger}[stands]
    for folder in (of_a_stranger, of_a_stranger.parent):
        (folder / "evil.py").write_text(EVIL)
    spec.write_text(spec.read_text().replace('kind = "mlflow"', f'kind = "{evil}.Tracker"'))
    monkeypatch.chdir(here)
    assert noether_command("tracker", "sync", of_a_stranger).code == 2
    assert not (here / "executed").exists()


def test_only_results_that_the_run_has_written_are_sent(of_a_stranger, fake_server, noether_command, workplace, capsys):
    secret = workplace / "id_rsa"
    secret.write_text("secret")
    run = of_a_stranger
    kept, changed, linked, piped = (run / json.loads(line)["file"] for line in lines_in(run / "results.jsonl"))
    changed.write_text("CHANGED")
    for path in (linked, piped):
        path.unlink()
    linked.symlink_to(secret)
    os.mkfifo(piped)
    (run / "results/kept/unlisted.txt").write_text("x")
    line = json.loads(lines_in(run / "results.jsonl")[0])
    tempting = [str(secret), "../../id_rsa", "results/../id_rsa", "run.json", "results/kept/unlisted.txt", "\x1b[2Jx"]
    digest = hashlib.sha256(b"secret").hexdigest()
    forged = [line | {"file": path, "size": 6, "sha256": digest} for path in tempting] + [line | {"key": "\x1b[2J"}]
    with (run / "results.jsonl").open("a") as index:
        index.writelines(json.dumps(each) + "\n" for each in [*forged, 3, {"update": "x"}])
    (run / "spec.toml").unlink()
    (run / "spec.toml").symlink_to(secret)
    synced = noether_command("tracker", "sync", "r", "--store", fake_server.address)
    assert "and 1 results, FINISHED" in synced.out
    assert {Path(path).name for path in uploaded(fake_server)} == {kept.name, "spec.resolved.toml", "report.html"}
    assert "\x1b" not in synced.out + synced.err


def lines_in(path):
    return path.read_text().splitlines()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "results.jsonl", "spool/mlflow.json", "spool/mlflow.run.json", "spec.toml"]
)
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(
    of_a_stranger, fake_server, noether_command, monkeypatch, name
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fake_server.address)
    (of_a_stranger / name).unlink()
    os.mkfifo(of_a_stranger / name)
    assert noether_command("tracker", "sync", "r").code == name.endswith(".jsonl")


@pytest.mark.parametrize("name", ["metrics.jsonl", "spool"])
def test_a_linked_metrics_file_or_spool_is_neither_read_nor_written(
    of_a_stranger, fake_server, noether_command, workplace, monkeypatch, name
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fake_server.address)
    elsewhere = workplace / "elsewhere"
    elsewhere.mkdir()
    (of_a_stranger / name).rename(elsewhere / name)
    (of_a_stranger / name).symlink_to(elsewhere / name)
    before = {path: path.read_bytes() for path in elsewhere.rglob("*.json*")}
    noether_command("tracker", "sync", "r")
    assert {path: path.read_bytes() for path in elsewhere.rglob("*.json*")} == before
    assert name == "spool" or not any(run.points for run in fake_server.runs.values())


def test_an_mlflow_run_of_somebody_else_is_not_continued(of_a_stranger, fake_server, noether_command):
    _, made = fake_server.act("runs/create", {"tags": [{"key": "noether.opening", "value": "other"}]})
    spool = of_a_stranger / "spool/mlflow.json"
    kept = json.loads(spool.read_text())
    spool.write_text(
        json.dumps(kept | {"reference": {"store": fake_server.address, "run_id": made["run"]["info"]["run_id"]}})
    )
    refused = noether_command("tracker", "sync", "r", "--store", fake_server.address)
    assert refused.code == 1
    assert fake_server.run.points == {}
    assert fake_server.run.status == "RUNNING"


def test_a_run_that_is_taken_away_while_it_is_synced_is_not_delivered(
    of_a_stranger, fake_server, noether_command, monkeypatch
):
    def lost(lock):
        raise RunLostError("the run was moved")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", fake_server.address)
    monkeypatch.setattr(RunLock, "require_own", lost)
    spool = (of_a_stranger / "spool/mlflow.json").read_bytes()
    synced = noether_command("tracker", "sync", "r")
    assert synced.code == 1
    assert "the run was moved" in synced.out
    assert asked(fake_server) == []
    assert (of_a_stranger / "spool/mlflow.json").read_bytes() == spool


def test_the_warning_at_the_end_of_a_run_names_the_store_that_sync_needs(of_a_stranger, fake_server):
    log = (of_a_stranger / "log.txt").read_text()
    assert f"noether tracker sync {of_a_stranger} --store {fake_server.address}" in log


def test_a_tracker_that_takes_no_store_says_so(tiny_spec, workplace, monkeypatch, noether_command, caplog):
    (workplace / "keeps.py").write_text(KEEPS)
    monkeypatch.syspath_prepend(workplace)
    noether.run(tiny_spec | {"trackers": [{"kind": "keeps.Keeps"}]}, run_id="r", quiet=True)
    (workplace / "pyproject.toml").touch()
    noether_command("tracker", "sync", "r", "--store", "http://127.0.0.1:9")
    del sys.modules["keeps"]
    assert "--store is not used" in caplog.text


def test_a_resume_does_not_send_a_strangers_run_to_the_store_that_its_spool_names(
    of_a_stranger, fake_server, noether_command
):
    spec = of_a_stranger / "spec.resolved.toml"
    table = spec.read_text().replace(f'tracking_uri = "{fake_server.address}"', "")
    shutil.rmtree(of_a_stranger / "checkpoints")  # or the spec is restored from there
    spec.write_text(table)
    resumed = noether_command("resume", "r")
    assert resumed.code == 2
    assert f"MLFLOW_TRACKING_URI={fake_server.address}" in resumed.err
    assert asked(fake_server) == []


KEEPS = """
from pathlib import Path
from noether.config.components import TrackerBaseConfig
from noether.core.trackers import NoopTracker

class KeepsConfig(TrackerBaseConfig):
    file: str = "kept.txt"

class Keeps(NoopTracker):
    wants_metrics = True
    def __init__(self, tracker_config: KeepsConfig):
        super().__init__(tracker_config)
    def log_metrics(self, records):
        if Path("down").exists():
            raise ConnectionError("down")
        Path(self.tracker_config.file).write_text(f"{len(records)} lines")
"""


@pytest.mark.parametrize(("file", "code"), [("own.txt", 0), ("other.txt", 2)])
def test_a_place_that_a_spec_of_the_project_names_is_the_users_own(
    tiny_spec, workplace, monkeypatch, noether_command, file, code
):
    (workplace / "keeps.py").write_text(KEEPS)
    monkeypatch.syspath_prepend(workplace)
    (workplace / "down").touch()
    table = {"kind": "keeps.Keeps", "file": file, "flush_timeout_s": 0.1}
    noether.run(tiny_spec | {"trackers": [table]}, run_id="r", quiet=True)
    (workplace / "down").unlink()
    (workplace / "pyproject.toml").touch()
    (workplace / "own.toml").write_text('[[trackers]]\nkind = "keeps.Keeps"\nfile = "own.txt"\nflush_timeout_s = 0.1\n')
    assert noether_command("tracker", "sync", "r").code == code
    assert (workplace / file).exists() is (code == 0)
    del sys.modules["keeps"]
