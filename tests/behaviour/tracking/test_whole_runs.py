"""Whole runs whose tracker fails, followed by `noether tracker sync` or a resume."""

import json
import os
import subprocess
import sys
import time

import pytest

import noether
from noether.core.trackers import BaseTracker, TrackerError
from noether.errors import NoetherError
from noether.runs.folder.lock import RunLock

TROUBLED = """
from noether.core.trackers import BaseTracker

class Tracker(BaseTracker):
    def open(self, run): self.fail("open")
    def log_metrics(self, records): self.fail("log")
    def close(self, status, error): self.fail("close")
    def fail(self, where):
        if where in self.moments: raise KeyError("oops in " + where)
"""

DRAWS = """
from noether.core.callbacks import PeriodicCallback

class Drawing(PeriodicCallback):
    def periodic_callback(self, *, update_counter, **_):
        self.writer.add_table("table", {"update": [update_counter.update]})
"""


@pytest.fixture
def tracked(tiny_spec, fake_server):
    """Makes the tiny spec log to the fake server, every update."""

    def make(**options):
        table = {"kind": "mlflow", "tracking_uri": fake_server.address, "request_timeout_s": 1, **options}
        trainer = tiny_spec["trainer"] | {"callbacks": [{"kind": "online-loss", "every_n_updates": 1, "id": "each"}]}
        return tiny_spec | {"trackers": [table], "trainer": trainer}

    return make


def weights(outcome):
    newest = max((outcome.run_dir / "checkpoints").glob("step-*"))
    return (newest / "model.safetensors").read_bytes()


def losses(folder, key="loss/online/total"):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["update"], line["metrics"][key]) for line in lines if key in line["metrics"]]


def arrived(fake_server):
    return fake_server.run.curve("loss/online/total")


def warnings(outcome):
    return [line for line in (outcome.run_dir / "log.txt").read_text().splitlines() if "tracker mlflow" in line]


@pytest.mark.parametrize("trouble", ["refuses", 500, pytest.param("hang", marks=pytest.mark.long)])
def test_a_server_that_is_down_from_start_to_end_changes_nothing_and_is_synced_later(
    tracked, fake_server, noether_command, trouble
):  # H-1 H-3 H-4
    untracked = noether.run(tracked() | {"trackers": [{"kind": "noop"}]}, quiet=True)
    if trouble == "refuses":
        fake_server.down()
    fake_server.mode = trouble if trouble != "refuses" else "ok"
    began = time.monotonic()
    outcome = noether.run(tracked(flush_timeout_s=1.0), run_id="down")
    assert time.monotonic() - began < 15
    assert (outcome.status, outcome.exit_code) == ("FINISHED", 0)
    assert weights(outcome) == weights(untracked)
    begin, end = warnings(outcome)
    assert "Training is not affected" in begin
    assert f"noether tracker sync {outcome.run_dir}" in end

    still_down = noether_command("tracker", "sync", "down", "--store", fake_server.address)
    assert still_down.code == 1, still_down
    assert "13 lines are still missing" in still_down.out
    if trouble == "refuses":
        fake_server.up()
    fake_server.mode = "ok"
    synced = noether_command("tracker", "sync", "runs/down", "--store", fake_server.address)
    assert synced.code == 0, synced
    assert "delivered 13 metric lines and 0 results, FINISHED" in synced.out
    assert arrived(fake_server) == losses(outcome.run_dir)
    run = fake_server.run
    record = json.loads((outcome.run_dir / "attempts/0001.json").read_text())
    assert (run.status, int(run.started), int(run.ended)) == (
        "FINISHED", int(record["started"] * 1000), int(record["ended"] * 1000)
    )  # fmt: skip
    assert run.params["trainer.max_epochs"] == "2"
    assert run.tags["noether.pid"] == str(os.getpid())

    asked = len(fake_server.requests)
    again = noether_command("tracker", "sync", "down", "--store", fake_server.address)
    assert (again.code, again.out) == (0, "mlflow: has everything, FINISHED\n")
    assert len(fake_server.requests) == asked


def test_results_of_a_callback_wait_for_a_server_that_is_down(tracked, fake_server, noether_command, project_module):
    project_module("draws", DRAWS)
    spec = tracked(flush_timeout_s=1.0)
    spec["trainer"]["callbacks"] = [{"kind": "draws.Drawing", "every_n_epochs": 1}]
    fake_server.down()
    outcome = noether.run(spec, run_id="down", quiet=True)
    assert (outcome.status, outcome.exit_code) == ("FINISHED", 0)
    fake_server.up()
    assert "and 2 results, FINISHED" in noether_command("tracker", "sync", "down", "--store", fake_server.address).out


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(tracked, fake_server, project_module):  # H-8
    project_module("once", BREAKS_ONCE)
    spec = tracked()
    callbacks = [*spec["trainer"]["callbacks"], {"kind": "checkpoint", "every_n_updates": 4}]
    callbacks.append({"kind": "once.Breaks", "every_n_updates": 1})
    spec["trainer"] |= {"callbacks": callbacks}
    first = noether.run(spec, run_id="r", quiet=True)
    assert (first.status, fake_server.run.status) == ("FAILED", "FAILED")
    assert "noether.error" in fake_server.run.tags
    assert [update for update, _ in arrived(fake_server)] == list(range(1, 11))

    second = noether.run(spec, run_id="r", resume="auto", quiet=True, set={"trackers.0.request_timeout_s": 2})
    assert second.status == "FINISHED", second.error
    run = fake_server.run
    assert arrived(fake_server) == losses(second.run_dir)
    assert [update for update, _ in arrived(fake_server)] == list(range(1, 13))
    assert run.statuses == ["FAILED", "RUNNING", "FINISHED"]
    assert "noether.error" not in run.tags
    assert run.params["trackers.0.request_timeout_s"] == "1"
    assert [value for key, value in run.params.items() if key.endswith("/trackers.0.request_timeout_s")] == ["2"]


BREAKS_ONCE = """
from pathlib import Path
from noether.core.callbacks import PeriodicCallback
from noether.config.components import CallBackBaseConfig

class Breaks(PeriodicCallback):
    def __init__(self, callback_config: CallBackBaseConfig, **kwargs):
        super().__init__(callback_config, **kwargs)

    def periodic_callback(self, *, update_counter, **kwargs):
        if update_counter.cur_iteration.update == 10 and not Path("broken").exists():
            Path("broken").touch()
            raise RuntimeError("only once")
"""


@pytest.fixture
def project_module(workplace, monkeypatch):
    """Writes a module of the project's own code."""
    monkeypatch.syspath_prepend(workplace)

    def write(name, source):
        (workplace / f"{name}.py").write_text(source)

    yield write
    for name in ("once", "troubled"):
        sys.modules.pop(name, None)


def test_a_run_whose_process_was_killed_is_killed_in_mlflow_after_a_sync(tracked, fake_server, noether_command):  # H-8
    noether.run(tracked(), run_id="killed", quiet=True)
    record = fake_server.folder.parent / "runs/killed/attempts/0001.json"
    fields = json.loads(record.read_text())
    record.write_text(json.dumps({"started": fields["started"], "status": "RUNNING"}))  # what a kill -9 leaves
    fake_server.run.status = "RUNNING"
    synced = noether_command("tracker", "sync", "killed", "--json", "--store", fake_server.address)
    assert synced.code == 0, synced
    (result,) = json.loads(synced.out)
    assert (result["status"], result["lines"], result["error"]) == ("KILLED", 0, "")
    assert fake_server.run.status == "KILLED"


def test_a_run_that_goes_on_is_not_synced(tracked, noether_command, workplace):
    noether.run(tracked() | {"trackers": [{"kind": "noop"}]}, run_id="alive", quiet=True)
    with RunLock(workplace / "runs/alive"):
        refused = noether_command("tracker", "sync", "alive")
    assert refused.code == 2
    assert "has not ended" in refused.err
    assert noether_command("tracker", "sync", "alive").out == "the run has no tracker that keeps metrics\n"
    assert noether_command("tracker", "sync", "alife").code == 2


def test_a_sync_imports_no_torch(tracked, fake_server):
    fake_server.down()
    noether.run(tracked(flush_timeout_s=0), run_id="light", quiet=True)
    fake_server.up()
    code = (
        "import sys\nfrom noether.runs.tracking.sync import sync_trackers\n"
        "print([synced.error for synced in sync_trackers('light', store=sys.argv[1])], 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, fake_server.address], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[''] False\n"
    assert len(arrived(fake_server)) == 12


@pytest.mark.parametrize("moment", ["open", "log", "close"])
def test_a_tracker_of_a_plugin_that_raises_harms_nothing(tracked, project_module, moment):  # H-9
    project_module("troubled", TROUBLED + f"    moments = {[moment]}\n")
    spec = tracked() | {"trackers": [{"kind": "troubled.Tracker", "flush_timeout_s": 0.2}]}
    outcome = noether.run(spec, run_id="r")
    assert (outcome.status, outcome.exit_code) == ("FINISHED", 0)
    log = (outcome.run_dir / "log.txt").read_text()
    assert f"oops in {moment}" in log
    assert "noether tracker sync" in log


def test_a_tracker_of_a_plugin_that_cannot_be_built_is_an_error_before_training(tracked, project_module):  # H-9
    project_module("troubled", TROUBLED + "    def __init__(self, tracker_config): raise KeyError('oops')\n")
    with pytest.raises(NoetherError) as caught:
        noether.run(tracked() | {"trackers": [{"kind": "troubled.Tracker"}]}, quiet=True)
    assert caught.value.exit_code == 2
    assert "KeyError: 'oops'" in str(caught.value)


def test_two_trackers_of_one_kind_keep_apart_what_they_have(tracked, fake_server, fake_server_class, tmp_path):
    other = fake_server_class(tmp_path / "other")
    try:
        spec = tracked()
        spec["trackers"].append(spec["trackers"][0] | {"tracking_uri": other.address})
        outcome = noether.run(spec, quiet=True)
        assert arrived(fake_server) == arrived(other) == losses(outcome.run_dir)
        assert {path.name for path in (outcome.run_dir / "spool").iterdir()} >= {"mlflow.json", "mlflow-2.json"}
    finally:
        other.down()


def test_a_required_tracker_that_is_down_at_the_start_fails_the_run_before_its_first_update(tracked, fake_server):
    fake_server.down()
    outcome = noether.run(tracked(required=True, flush_timeout_s=0), quiet=True)
    assert (outcome.status, outcome.exit_code) == ("FAILED", 1)
    assert isinstance(outcome.error, TrackerError)
    assert not (outcome.run_dir / "metrics.jsonl").exists()


def test_a_required_tracker_that_refuses_in_the_middle_fails_the_run_at_the_next_line(
    tracked, fake_server, monkeypatch
):
    fake_server.mode = lambda call: 403 if call == "runs/log-batch" and fake_server.run.params else "ok"
    spec = tracked(required=True, flush_timeout_s=0.1)
    spec["trainer"] |= {"max_epochs": 100_000}
    outcome = noether.run(spec, quiet=True)
    assert (outcome.status, outcome.exit_code) == ("FAILED", 1)
    assert "has refused" in str(outcome.error)


def test_a_required_tracker_that_lacks_something_at_the_end_is_an_exit_code(
    tracked, fake_server, noether_command, spec_file
):
    fake_server.mode = lambda call: 500 if call == "runs/log-batch" and fake_server.run.params else "ok"
    ended = noether_command("run", spec_file(tracked(required=True, flush_timeout_s=0.1)), "--run-id", "r", "--quiet")
    assert ended.code == 1
    assert "lacks some of its metrics or results" in ended.err
    assert "noether tracker sync" in ended.err
    fake_server.mode = "ok"
    assert noether_command("tracker", "sync", "r", "--store", fake_server.address).code == 0
    assert len(arrived(fake_server)) == 12


@pytest.fixture
def spec_file(workplace):
    """Writes a spec to a file."""
    import tomli_w

    def write(spec):
        (workplace / "tiny.toml").write_text(tomli_w.dumps(spec))
        return workplace / "tiny.toml"

    return write


def test_a_closed_output_does_not_end_the_run(tracked, spec_file, workplace):  # H-10
    path = spec_file(tracked() | {"trackers": [{"kind": "noop"}]})
    command = [sys.executable, "-m", "noether", "run", str(path), "--run-id", "deaf"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()  # as `| head` does
    _, errors = process.communicate(timeout=60)
    record = json.loads((workplace / "runs/deaf/attempts/0001.json").read_text())
    assert (process.returncode, record["status"]) == (0, "FINISHED"), errors
    assert "Traceback" not in errors


def test_the_base_of_trackers_says_that_it_cannot_look_up_what_arrived(records):
    assert BaseTracker.undelivered(None, records) == records
