"""Signals at known points of a run, in this process and in others: A7 to A13."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w

from noether.checkpoint import durable
from noether.errors import SpecError

DEADLINE_S = 60


def sends(*numbers, at_update=3):
    numbers = list(map(int, numbers))
    return {"kind": "lab.callbacks.Signals", "every_n_updates": 1, "numbers": numbers, "at_update": at_update}


def ends_of(run_dir):
    """Return the bytes of the newest weights and optimizer."""
    newest = max((run_dir / "checkpoints").glob("step-*"))
    return [(newest / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")]


# A7, A8


@pytest.mark.parametrize("update", range(1, 12))
def test_a_run_that_sigterm_stops_after_any_update_ends_with_the_same_bytes(run, finish, lab, update):
    spec = {"model.dropout": 0.3}
    straight = finish(spec)
    stopped = run({**spec, "trainer.callbacks": [sends(signal.SIGTERM, at_update=update)]}, run_id="stopped")
    assert (stopped.status, stopped.exit_code) == ("KILLED", 143)
    silent = {**spec, "trainer.callbacks": [sends(at_update=update)]}
    assert ends_of(finish(silent, run_id="stopped", resume="auto").run_dir) == ends_of(straight.run_dir)


def test_sigterm_at_the_last_update_lets_the_run_finish(run, lab, attempt):
    words = {"kind": "lab.callbacks.LastWords", "every_n_epochs": 1}
    outcome = run({"trainer.callbacks": [sends(signal.SIGTERM, at_update=12), words]})
    assert (outcome.status, outcome.exit_code) == ("FINISHED", 0)
    assert "last/words" in outcome.metrics
    assert attempt(outcome)["status"] == "FINISHED"


def test_sigterm_together_with_an_early_stop_lets_the_run_finish(run, lab):
    stops = {"kind": "lab.stops.StopsIn", "hook": "update", "at_update": 3, "every_n_updates": 1}
    outcome = run({"trainer.callbacks": [stops, sends(signal.SIGTERM)]})
    assert (outcome.status, outcome.exit_code) == ("FINISHED", 0)


def test_sigterm_before_the_first_update_commits_the_beginning(run, lab, verified_updates):
    fault = {"kind": "lab.faults.Fault", "every_n_updates": 1, "hook": "before_training", "action": "signal"}
    outcome = run({"trainer.callbacks": [fault]})
    assert (outcome.status, outcome.exit_code) == ("KILLED", 143)
    assert verified_updates(outcome.run_dir) == [0]


# A9


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2", "SIGHUP"])
def test_signals_of_a_scheduler_stop_a_run_as_sigterm_does(run, lab, attempt, verified_updates, name):
    number = signal.Signals[name]
    outcome = run({"trainer.stop_signals": [name], "trainer.callbacks": [sends(number)]})
    assert (outcome.status, outcome.exit_code) == ("KILLED", 128 + number)
    assert verified_updates(outcome.run_dir) == [3]
    assert attempt(outcome)["reason"] == name


def test_a_signal_that_cannot_be_handled_is_refused_before_training(run):
    with pytest.raises(SpecError) as caught:
        run({"trainer.stop_signals": ["SIGKILL"]})
    assert "SIGKILL" in str(caught.value)


# A10


class SignalsInSave:
    """The `os` of the durable writer: at its n-th call after the first checkpoint, signals arrive."""

    def __init__(self, call, numbers):
        self.call, self.numbers, self.calls = call, numbers, 0

    def __getattr__(self, name):
        if name in ("open", "fsync") and list(Path("runs").glob("*/checkpoints/step-000000000002")):
            self.calls += 1
            if self.calls == self.call:
                for number in self.numbers:
                    os.kill(os.getpid(), number)
        return getattr(os, name)


@pytest.mark.parametrize("call", [3, 4, 7, 11])
@pytest.mark.parametrize(
    ("numbers", "code"),
    [((signal.SIGTERM, signal.SIGTERM), 143), ((signal.SIGTERM, signal.SIGINT), 143), ((signal.SIGINT,), 130)],
    ids=["SIGTERM twice", "SIGTERM and Ctrl-C", "Ctrl-C"],
)
def test_a_commit_in_progress_is_finished_and_nothing_after_it(
    run, lab, attempt, verified_updates, monkeypatch, call, numbers, code
):
    notes = {"kind": "lab.callbacks.Diary", "id": "diary", "every_n_updates": 1}
    monkeypatch.setattr(durable, "os", SignalsInSave(call, numbers))
    outcome = run({"trainer.callbacks": [{"kind": "checkpoint", "every_n_updates": 2}, notes]})
    assert (outcome.status, outcome.exit_code) == ("KILLED", code)
    assert verified_updates(outcome.run_dir) == [2, 4]
    assert list((outcome.run_dir / "checkpoints").glob(".*")) == []
    assert attempt(outcome)["status"] == "KILLED"
    calls = Path("calls.txt").read_text().splitlines()
    assert calls[-1] == "close"
    assert calls[-2] == "diary: update E0_U4_S32"


def test_a_second_signal_while_the_end_is_written_down_changes_nothing(run, lab, attempt):
    outcome = run({"trainer.callbacks": [sends(signal.SIGTERM)]}, plugins=["lab.signals_at_the_end"])
    assert (outcome.status, outcome.exit_code) == ("KILLED", 143)
    assert attempt(outcome)["status"] == "KILLED"


def test_sigterm_when_training_is_over_leaves_a_finished_run(run, lab, attempt):
    outcome = run(plugins=["lab.signals_at_the_end"])
    assert (outcome.status, outcome.exit_code) == ("FINISHED", 0)
    assert attempt(outcome)["status"] == "FINISHED"


def test_signals_end_the_wait_for_a_tracker_that_hangs(run, lab, attempt):
    started = time.monotonic()
    outcome = run({"trackers": [{"kind": "lab.trackers.SignalsAtTheEnd"}]})
    assert outcome.status == "FINISHED"
    assert time.monotonic() - started < 10  # it would hang for a minute
    assert attempt(outcome)["status"] == "FINISHED"


# Real processes


def start(spec, run_id="long", **changes):
    """Start the command in a group of its own, on a run that would take hours."""
    spec["trainer"] |= {"max_epochs": 10_000_000, "track_every_n_updates": 10, **changes}
    Path("long.toml").write_text(tomli_w.dumps(spec))
    command = [sys.executable, "-m", "noether", "run", "long.toml", "--run-id", run_id]
    with Path("out.txt").open("w") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True), Path("runs") / run_id


def wait_for_progress(process, run_dir):
    metrics = run_dir / "metrics.jsonl"
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if metrics.exists() and metrics.read_text().count("\n") > 3:
            return
        assert process.poll() is None, Path("out.txt").read_text()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    raise AssertionError(f"no progress after {DEADLINE_S} s: {Path('out.txt').read_text()}")


def ended(process):
    try:
        return process.wait(DEADLINE_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_signal_to_the_whole_group_is_left_to_the_trainer(tiny_spec, finish, attempt, verified_updates):  # A12
    tiny_spec["loader"] = {"num_workers": 2}
    process, run_dir = start(tiny_spec)
    wait_for_progress(process, run_dir)
    sent = time.monotonic()
    os.killpg(process.pid, signal.SIGTERM)
    assert ended(process) == 143
    took = time.monotonic() - sent
    assert "Traceback" not in Path("out.txt").read_text()
    (update,) = verified_updates(run_dir)
    assert attempt(run_dir)["status"] == "KILLED"
    assert took < 5.0, f"{took:.1f} s"  # an update and a save take milliseconds; this machine may be busy
    straight = finish({"trainer.max_epochs": None, "trainer.max_updates": update, "loader.num_workers": 0})
    assert ends_of(run_dir)[0] == ends_of(straight.run_dir)[0]


def test_a_third_signal_kills_a_commit_that_hangs_and_leaves_a_whole_set(tiny_spec, lab, verified_updates):
    (lab / "hangs_in_save.py").write_text(HANGS_IN_SAVE)
    tiny_spec["plugins"] = {"use": ["lab.hangs_in_save"]}
    process, run_dir = start(tiny_spec, callbacks=[{"kind": "checkpoint", "every_n_updates": 2}])
    deadline = time.monotonic() + DEADLINE_S
    while not Path("hanging.txt").exists():
        assert process.poll() is None and time.monotonic() < deadline, Path("out.txt").read_text()
        time.sleep(0.02)
    for _ in range(2):
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(0.2)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGTERM)
    assert ended(process) == -signal.SIGTERM
    assert verified_updates(run_dir) == [2]


HANGS_IN_SAVE = """
import os, time
from pathlib import Path
from noether import hookimpl
from noether.checkpoint import durable


class HangingOs:
    def __getattr__(self, name):
        if name == "fsync" and list(Path("runs").glob("*/checkpoints/step-*")):
            Path("hanging.txt").touch()
            for _ in range(6000):
                time.sleep(0.1)
        return getattr(os, name)


@hookimpl
def run_started(run):
    durable.os = HangingOs()
"""
