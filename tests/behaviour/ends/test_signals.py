"""SIGTERM always commits a checkpoint, SIGINT only if configured, and a second signal ends at once."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w

import noether
from noether.runs.tracking.tracking import Tracking
from noether.training.callbacks import OfflineLossCallback

DEADLINE_S = 60


def sends(*numbers):
    return [{"kind": "lab.callbacks.Signals", "every_n_updates": 1, "numbers": list(map(int, numbers))}]


def test_sigterm_commits_the_update_that_it_met_and_ends_with_143(run, lab, attempt, verified_updates):
    outcome = run({"trainer.callbacks": sends(signal.SIGTERM)})
    assert (outcome.status, outcome.exit_code, outcome.error) == ("KILLED", 143, None)
    assert verified_updates(outcome.run_dir) == [3]
    assert attempt(outcome)["status"] == "KILLED"
    assert attempt(outcome)["reason"] == "SIGTERM"


def test_sighup_commits_as_sigterm_does_also_if_it_comes_twice(run, lab, attempt, verified_updates):
    outcome = run({"trainer.callbacks": sends(signal.SIGHUP, signal.SIGHUP)})
    assert (outcome.status, outcome.exit_code, outcome.error) == ("KILLED", 129, None)
    assert verified_updates(outcome.run_dir) == [3]
    assert attempt(outcome)["reason"] == "SIGHUP"


def test_sighup_after_sigterm_does_not_hurry_it(run, lab, verified_updates):
    outcome = run({"trainer.callbacks": sends(signal.SIGTERM, signal.SIGHUP)})
    assert outcome.exit_code == 143
    assert verified_updates(outcome.run_dir) == [3]


def test_nohup_keeps_a_run_alive(run, lab):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        outcome = run({"trainer.callbacks": sends(signal.SIGHUP)})
    finally:
        signal.signal(signal.SIGHUP, before)
    assert outcome.status == "FINISHED"


def test_what_sigterm_commits_is_what_an_uninterrupted_run_has_there(run, finish, lab, final_weights):
    stopped = run({"trainer.callbacks": sends(signal.SIGTERM)})
    three = finish({"trainer.max_epochs": None, "trainer.max_updates": 3})
    assert final_weights(stopped) == final_weights(three)


def test_sigint_ends_at_once_with_130_and_saves_nothing(run, lab, attempt, verified_updates):
    outcome = run({"trainer.callbacks": sends(signal.SIGINT)})
    assert (outcome.status, outcome.exit_code) == ("KILLED", 130)
    assert verified_updates(outcome.run_dir) == []
    assert attempt(outcome)["status"] == "KILLED"


def test_ctrl_c_reaches_the_loop_around_a_run_after_the_run_is_closed(tiny_spec, lab, attempt):
    changes = {"trainer.callbacks": sends(signal.SIGINT)}
    with pytest.raises(KeyboardInterrupt) as stop:
        noether.run(tiny_spec, set=changes, quiet=True)
    assert stop.value.outcome.status == "KILLED"
    assert attempt(stop.value.outcome)["status"] == "KILLED"


def test_after_ctrl_c_the_log_names_the_kept_checkpoint_the_loss_and_the_command(run, lab):
    saving = {"kind": "checkpoint", "every_n_updates": 2}
    outcome = run({"trainer.callbacks": [saving, *sends(signal.SIGINT)]}, run_id="stops")
    log = (outcome.run_dir / "log.txt").read_text()
    assert "kept: E0_U2_S16; 1 update is lost; continue with: noether resume runs/stops" in log
    assert run({"trainer.callbacks": []}, run_id="stops", resume="auto", allow_spec_change=True).error is None


def test_after_ctrl_c_the_trackers_have_the_run_as_killed(run, lab):
    outcome = run({"trainer.callbacks": sends(signal.SIGINT), "trackers": [{"kind": "lab.trackers.KeepsTheEnd"}]})
    assert (outcome.run_dir / "end.txt").read_text() == "KILLED"


def test_sigint_with_save_on_sigint_commits_first(run, lab, attempt, verified_updates):
    outcome = run({"trainer.callbacks": sends(signal.SIGINT), "trainer.save_on_sigint": True})
    assert (outcome.status, outcome.exit_code) == ("KILLED", 130)
    assert verified_updates(outcome.run_dir) == [3]
    assert attempt(outcome)["reason"] == "SIGINT"


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ((signal.SIGTERM, signal.SIGTERM), 143),
        ((signal.SIGINT, signal.SIGINT), 130),
        ((signal.SIGTERM, signal.SIGINT), 143),
    ],
)
def test_a_second_signal_ends_at_once(run, lab, attempt, verified_updates, numbers, code):
    outcome = run({"trainer.callbacks": sends(*numbers), "trainer.save_on_sigint": True})
    assert (outcome.status, outcome.exit_code) == ("KILLED", code)
    assert verified_updates(outcome.run_dir) == []
    assert attempt(outcome)["status"] == "KILLED"


WATCH = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test", "batch_size": 5}


@pytest.fixture
def stopped_in_a_pass(monkeypatch):
    """Lets SIGTERM arrive while the first batch of an evaluation is processed; returns the calls."""

    def arm():
        process, calls = OfflineLossCallback.process_data, []

        def stopped(self, batch, **arguments):
            calls.append(len(batch["x"]))
            signal.raise_signal(signal.SIGTERM)
            return process(self, batch, **arguments)

        monkeypatch.setattr(OfflineLossCallback, "process_data", stopped)
        return calls

    return arm


def test_sigterm_stops_a_run_that_only_evaluates_between_two_batches(run, attempt, metric_lines, stopped_in_a_pass):
    calls = stopped_in_a_pass()
    outcome = run({"trainer.max_epochs": 0, "trainer.callbacks": [WATCH]})
    assert (outcome.status, outcome.exit_code, outcome.error) == ("KILLED", 143, None)
    assert calls == [5]
    assert "loss/test/total" not in outcome.metrics
    assert attempt(outcome)["status"] == "KILLED"
    assert attempt(outcome)["reason"] == "SIGTERM"
    assert "save_on_sigint" not in (outcome.run_dir / "log.txt").read_text()  # there is nothing to save


def test_sigterm_before_an_evaluation_without_training_stops_it_at_its_first_batch(run, lab, attempt):
    sending = {"kind": "lab.callbacks.Signals", "every_n_epochs": 1, "numbers": [int(signal.SIGTERM)], "at_update": 0}
    outcome = run({"trainer.max_epochs": 0, "trainer.callbacks": [sending, WATCH]})
    assert (outcome.status, outcome.exit_code) == ("KILLED", 143)
    assert "loss/test/total" not in outcome.metrics


def test_sigterm_stops_noether_eval_between_two_batches_with_143(finish, noether_command, stopped_in_a_pass):
    outcome = finish({"trainer.callbacks": [WATCH]})
    calls = stopped_in_a_pass()
    ended = noether_command("eval", outcome.run_dir)
    assert ended.code == 143
    assert calls == [5]
    assert not [file for file in (outcome.run_dir / "evaluations").glob("*/metrics.jsonl") if file.read_text()]


@pytest.mark.parametrize("epochs", [0, 2])
def test_ctrl_c_before_training_ends_at_once_and_saves_nothing(run, attempt, verified_updates, monkeypatch, epochs):
    monkeypatch.setattr(Tracking, "start", lambda self: signal.raise_signal(signal.SIGINT))  # a server that is slow
    outcome = run({"trainer.max_epochs": epochs, "trainer.callbacks": [WATCH]})
    assert (outcome.status, outcome.exit_code) == ("KILLED", 130)
    assert verified_updates(outcome.run_dir) == []
    assert attempt(outcome)["status"] == "KILLED"


def test_ctrl_c_in_before_training_ends_at_once_and_saves_nothing(run, verified_updates, monkeypatch):
    monkeypatch.setattr(
        OfflineLossCallback, "before_training", lambda self, **_: signal.raise_signal(signal.SIGINT), raising=False
    )
    outcome = run({"trainer.callbacks": [WATCH]})
    assert (outcome.status, outcome.exit_code) == ("KILLED", 130)
    assert verified_updates(outcome.run_dir) == []


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("verb", ["eval", "check"])
def test_a_second_signal_ends_a_verb_that_does_not_train_at_once(
    verb, second, finish, tiny_spec, noether_command, monkeypatch
):
    run_dir = finish({"trainer.callbacks": [WATCH]}).run_dir
    Path("tiny.toml").write_text(tomli_w.dumps(tiny_spec))

    def twice(*_, **__):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(second)

    monkeypatch.setattr("noether.training.loop.Rounds.at_eval", twice)
    monkeypatch.setattr("noether.training.loop.Rounds.before_training", twice)
    ended = noether_command(*(("eval", run_dir) if verb == "eval" else ("check", "--deep", "tiny.toml")))
    assert ended.code == 143
    assert "Traceback" not in ended.err


def test_the_handlers_are_those_from_before_also_after_a_signal(run, lab):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    run({"trainer.callbacks": sends(signal.SIGTERM), "trainer.save_on_sigint": True})
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def start(spec, **changes):
    """Start the command on a run that would take hours; return the process and the run's folder."""
    spec["trainer"] |= {"max_epochs": 10_000_000, "track_every_n_updates": 10, **changes}
    Path("long.toml").write_text(tomli_w.dumps(spec))
    command = [sys.executable, "-m", "noether", "run", "long.toml", "--run-id", "long"]
    with Path("out.txt").open("w") as out:
        return subprocess.Popen(command, stdout=out, stderr=out), Path("runs/long")


def wait_for_progress(process, run_dir):
    """Return once the run has written metrics of training."""
    metrics = run_dir / "metrics.jsonl"
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if metrics.exists() and metrics.read_text().count("\n") > 3:
            return
        assert process.poll() is None, Path("out.txt").read_text()
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"no progress after {DEADLINE_S} s: {Path('out.txt').read_text()}")


def ended(process):
    try:
        return process.wait(DEADLINE_S)
    finally:
        if process.poll() is None:
            process.kill()


def test_the_command_ends_with_143_after_sigterm_and_leaves_a_valid_checkpoint(tiny_spec, attempt, verified_updates):
    process, run_dir = start(tiny_spec)
    wait_for_progress(process, run_dir)
    os.kill(process.pid, signal.SIGTERM)
    assert ended(process) == 143
    (update,) = verified_updates(run_dir)
    assert update > 0
    assert attempt(run_dir)["status"] == "KILLED"
    assert "Traceback" not in Path("out.txt").read_text()


def test_the_command_ends_with_130_after_ctrl_c(tiny_spec, attempt, verified_updates):
    process, run_dir = start(tiny_spec)
    wait_for_progress(process, run_dir)
    os.kill(process.pid, signal.SIGINT)
    assert ended(process) == 130
    assert verified_updates(run_dir) == []
    assert attempt(run_dir)["status"] == "KILLED"
    assert "Traceback" not in Path("out.txt").read_text()


def test_a_run_whose_terminal_is_closed_commits_a_checkpoint(tiny_spec, attempt, verified_updates):
    tiny_spec["trainer"] |= {"max_epochs": 10_000_000, "track_every_n_updates": 10}
    Path("long.toml").write_text(tomli_w.dumps(tiny_spec | {"loader": {"num_workers": 2}}))
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
        os.execv(sys.executable, [sys.executable, "-m", "noether", "run", "long.toml", "--run-id", "long"])
    run_dir, deadline = Path("runs/long"), time.monotonic() + DEADLINE_S
    metrics = run_dir / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") > 3):
        assert time.monotonic() < deadline
        if select.select([terminal], [], [], 0.01)[0]:
            os.read(terminal, 10_000)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    assert len(verified_updates(run_dir)) == 1
    assert (attempt(run_dir)["status"], attempt(run_dir)["reason"]) == ("KILLED", "SIGHUP")


def test_sigterm_ends_a_run_with_workers_too(tiny_spec, attempt, verified_updates):
    process, run_dir = start(tiny_spec | {"loader": {"num_workers": 2}})
    wait_for_progress(process, run_dir)
    os.kill(process.pid, signal.SIGTERM)
    assert ended(process) == 143
    assert len(verified_updates(run_dir)) == 1
    assert "Traceback" not in Path("out.txt").read_text()
