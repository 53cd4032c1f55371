"""Attempts of a command in jobs of submitit's local executor, with the signals that submitit and Slurm send."""

import sys
import time
from pathlib import Path

import pytest
import submitit
from noether_plugin_slurm.attempt import Attempt

COMMAND = """
import os, signal, sys, time
from pathlib import Path

def say(what):
    with Path("said").open("a") as file:
        file.write(what + "\\n")

def stop(number, frame):
    say("stopped by " + signal.Signals(number).name)
    sys.exit(128 + number)

def wait_for_a_signal():
    while True:
        time.sleep(0.01)

job = os.getppid()
say("attempt")
is_first = Path("said").read_text().count("attempt") == 1
signal.signal(signal.SIGHUP, stop)
signal.signal(signal.SIGTERM, stop)
"""

PREEMPTED = "if is_first: os.kill(job, signal.SIGUSR2); wait_for_a_signal()"
PREEMPTED_BY_SLURM = """if is_first:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as a run does that has been told to stop
    os.kill(job, signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGUSR2)
    os.kill(job, signal.SIGUSR2)
    os.kill(os.getpid(), signal.SIGTERM)
"""
STOPPED_ALONE = "if is_first: os.kill(os.getpid(), signal.SIGTERM)"
STOPPED_BEFORE_ITS_HANDLERS = """if is_first:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.kill(job, signal.SIGUSR2)
    wait_for_a_signal()
"""
ALWAYS_STOPPED = "os.kill(os.getpid(), signal.SIGTERM)"
FINISHING = "signal.signal(signal.SIGHUP, signal.SIG_IGN); os.kill(job, signal.SIGUSR2); say('finished')"
ENDED_ALONE = "os.kill(job, signal.SIGTERM); wait_for_a_signal()"
CANCELLED = "os.kill(job, signal.SIGTERM); os.kill(os.getpid(), signal.SIGTERM)"
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"


def said(folder: Path) -> list[str]:
    return (folder / "said").read_text().splitlines()


def job_of(folder: Path, code: str, most: int = 4, patience: float = 20.0) -> submitit.Job:
    """Return a job that has ended."""
    (folder / "command.py").write_text(COMMAND + code)
    executor = submitit.AutoExecutor(folder / "job", cluster="local", local_max_num_timeout=most)
    executor.update_parameters(timeout_min=5)
    job = executor.submit(Attempt([sys.executable, "command.py"], folder, most, patience=patience, settled=0.1))
    while not job.done():  # submitit itself looks once a second
        time.sleep(0.02)
    return job


@pytest.mark.parametrize(
    ("code", "end"),
    [
        (PREEMPTED, "stopped by SIGHUP"),
        (PREEMPTED_BY_SLURM, "stopped by SIGTERM"),
        (STOPPED_ALONE, "stopped by SIGTERM"),
        pytest.param(STOPPED_BEFORE_ITS_HANDLERS, None, marks=pytest.mark.long),
    ],
    ids=["preempted", "preempted as by Slurm", "stopped alone", "stopped before its handlers"],
)
def test_a_run_that_is_stopped_is_requeued_and_goes_on(tmp_path: Path, code: str, end: str | None):
    assert job_of(tmp_path, code).result() == 0
    assert said(tmp_path) == ["attempt", *([end] if end else []), "attempt"]


@pytest.mark.parametrize("code", ["sys.exit(1)", "sys.exit(130)", KILLED])
def test_a_run_that_fails_is_not_requeued(tmp_path: Path, code: str):
    error = job_of(tmp_path, code).exception()
    assert "RunNotFinishedError" in str(error) and "not requeued" in str(error)
    assert said(tmp_path) == ["attempt"]


def test_a_run_that_finishes_while_it_is_stopped_is_finished(tmp_path: Path):
    assert job_of(tmp_path, FINISHING).result() == 0
    assert said(tmp_path) == ["attempt", "finished"]


def test_attempts_are_limited(tmp_path: Path):
    error = job_of(tmp_path, ALWAYS_STOPPED, most=2).exception()
    assert "attempt 2 of at most 2" in str(error)
    assert said(tmp_path).count("attempt") == 2


@pytest.mark.parametrize(("code", "end"), [(CANCELLED, "SIGTERM"), (ENDED_ALONE, "SIGHUP")])
def test_a_job_that_is_cancelled_stays_cancelled(tmp_path: Path, code: str, end: str):
    """scancel sends SIGTERM to every process, and no signal that asks for a requeue; `kill` sends it to one."""
    error = job_of(tmp_path, code, patience=0.1).exception()
    assert "ended by SIGTERM" in str(error)
    assert said(tmp_path) == ["attempt", f"stopped by {end}"]
