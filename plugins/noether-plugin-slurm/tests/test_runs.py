"""Real runs in jobs: preempted at an update, requeued, and equal to an uninterrupted one."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import submitit
import tomli_w
from noether_plugin_slurm.command import app
from noether_plugin_slurm.submit import SlurmTable, command_of, submit
from typer.testing import CliRunner

import noether
from noether.errors import UsageError
from noether.testing import tiny_spec

PREEMPT = '''
"""Preempts its job once: beside update 7 of 12 it sends the signals of SIGNALS, to the job and to its own process."""

import os, signal, time
from pathlib import Path

from noether.core.callbacks import CallbackBase


class Preempt(CallbackBase):
    """Sends signals, and waits until the run knows that it has to stop."""

    def track_after_update_step(self, *, update_counter, **_):
        once = Path(os.environ.get("PREEMPTED", ""))
        if update_counter.update != 7 or "PREEMPTED" not in os.environ or once.exists():
            return
        once.touch()
        for name in os.environ["SIGNALS"].split():
            number = signal.Signals[name]
            if os.environ.get("TO_ALL"):
                os.kill(os.getpid(), number)
            os.kill(os.getppid(), number)
        while self.trainer.signals.received is None:
            time.sleep(0.01)
'''


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny spec in a project with the callback above, and a checkpoint every five updates."""
    module = f"preempt_{tmp_path.name}"  # a process imports a module of one name from one project only
    (tmp_path / f"{module}.py").write_text(PREEMPT)
    (tmp_path / "pyproject.toml").touch()
    trainer = {"callbacks": [{"kind": f"{module}.Preempt"}, {"kind": "checkpoint", "every_n_updates": 5}]}
    (tmp_path / "spec.toml").write_text(tomli_w.dumps(tiny_spec(trainer=trainer, output="runs")))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "spec.toml"


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny spec alone."""
    (tmp_path / "spec.toml").write_text(tomli_w.dumps(tiny_spec()))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "spec.toml"


def attempts(run: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((run / "attempts").iterdir())]


def last_checkpoint(run: Path) -> dict[str, bytes]:
    newest = max(path for path in (run / "checkpoints").iterdir() if path.name.startswith("step-"))
    return {str(path.relative_to(newest)): path.read_bytes() for path in newest.rglob("*.safetensors")}


def straight(spec: Path) -> dict[str, bytes]:
    outcome = noether.run(spec, run_id="straight", quiet=True)
    assert outcome.status == "FINISHED"
    return last_checkpoint(outcome.run_dir)


def submitted(spec: Path, **options) -> submitit.Job:
    return submit(command_of(spec, "job", []), "job", SlurmTable(**options), "local")


@pytest.mark.parametrize(
    ("signals", "to_all"),
    [
        pytest.param("SIGUSR2", "", id="time-out"),
        pytest.param("SIGTERM SIGUSR2", "1", id="preemption", marks=pytest.mark.long),
        pytest.param("SIGUSR2", "1", id="time-out sent to all", marks=pytest.mark.long),
    ],
)
def test_a_preempted_run_ends_with_the_bytes_of_a_straight_one(
    spec: Path, monkeypatch: pytest.MonkeyPatch, signals: str, to_all: str
):
    monkeypatch.setenv("PREEMPTED", str(spec.parent / "once"))
    monkeypatch.setenv("SIGNALS", signals)
    monkeypatch.setenv("TO_ALL", to_all)
    assert submitted(spec).result() == 0
    run = spec.parent / "runs" / "job"
    assert [attempt["status"] for attempt in attempts(run)] == ["KILLED", "FINISHED"]
    monkeypatch.delenv("PREEMPTED")
    expected = straight(spec)
    assert len(expected) >= 2 and last_checkpoint(run) == expected


RANKS = """
import os, signal, time
from pathlib import Path

from noether.core.callbacks import CallbackBase


class Preempt(CallbackBase):
    \"\"\"Preempts the job once, beside update 7: the launcher of this rank is a child of the process of the job.\"\"\"

    def track_after_update_step(self, *, update_counter, **_):
        once = Path("once")
        if update_counter.update != 7 or once.exists():
            return
        once.touch()
        launcher = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2]
        os.kill(int(launcher.split()[1]), signal.SIGUSR2)
        while self.trainer.signals.heard is None:
            time.sleep(0.01)
"""


def preempts_a_job_of_ranks(spec: Path) -> None:
    next(spec.parent.glob("preempt_*.py")).write_text(RANKS)


@pytest.mark.long
def test_a_preempted_run_of_two_ranks_is_continued_with_two(spec: Path):
    preempts_a_job_of_ranks(spec)
    table = SlurmTable(ranks=2, cpus=2)
    assert submit(command_of(spec, "job", [], table), "job", table, "local").result() == 0
    run = spec.parent / "runs" / "job"
    assert [attempt["status"] for attempt in attempts(run)] == ["KILLED", "FINISHED"]
    assert attempts(run)[1]["resumed_from"] == "step-000000000007"
    assert (run / "log.rank-00001.txt").exists()


@pytest.mark.long
def test_a_run_out_of_attempts_goes_on_when_it_is_submitted_again(spec: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREEMPTED", str(spec.parent / "once"))
    monkeypatch.setenv("SIGNALS", "SIGUSR2")
    assert "attempt 1 of at most 1" in str(submitted(spec, max_attempts=1).exception())
    assert submitted(spec, max_attempts=1).result() == 0
    run = spec.parent / "runs" / "job"
    assert [attempt["status"] for attempt in attempts(run)] == ["KILLED", "FINISHED"]
    monkeypatch.delenv("PREEMPTED")
    assert last_checkpoint(run) == straight(spec)


@pytest.mark.long
def test_a_run_that_fails_is_left_alone(spec: Path):
    text = spec.read_text().replace("lr = 0.01", "lr = 1e38").replace('kind = "AdamW"', 'kind = "SGD"')
    spec.write_text(text)
    error = submitted(spec).exception()
    assert "exit code 4" in str(error)
    assert [attempt["status"] for attempt in attempts(spec.parent / "runs" / "job")] == ["FAILED"]


@pytest.mark.parametrize(
    ("options", "word"), [(["slurm.nodes=2"], "--local"), (["slurm.ranks=2", "slurm.gpus=1"], "gpus")]
)
def test_ranks_that_cannot_be_started_are_refused(plain: Path, options: list[str], word: str):
    assert word in str(refused(str(plain), "--local", *(part for option in options for part in ("-s", option))))


def refused(*arguments: str) -> UsageError:
    """Return the error that `noether slurm-submit` ends with."""
    error = CliRunner().invoke(app, list(arguments)).exception
    assert isinstance(error, UsageError), error
    return error


def test_a_machine_without_slurm_is_named(plain: Path):
    assert "--local" in str(refused(str(plain)))


def test_what_is_wrong_is_never_submitted(plain: Path):
    assert "max_updates" in str(refused(str(plain), "--local", "-s", "trainer.max_updates=-1"))
    refused(str(plain), "--local", "--run-id", "a/b")
    assert not (plain.parent / "slurm").exists()


@pytest.mark.long
def test_a_local_job_goes_on_after_the_command_has_ended(plain: Path):
    """The pipe is closed at once, although the job runs."""
    command = [sys.executable, "-m", "noether", "slurm-submit", "spec.toml", "--local", "--run-id", "job"]
    shown = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.split()
    job = submitit.LocalJob(plain.parent / "slurm" / "job", shown[shown.index("job") + 1])
    assert not job.paths.result_pickle.exists()
    while not job.done() or not job.paths.result_pickle.exists():
        time.sleep(0.05)
    assert job.result() == 0


@pytest.mark.parametrize("option", ["partitoin='gpu'", "signal_s=3600", "time_min=0"])
def test_an_option_of_the_job_that_is_wrong_is_refused_with_the_spec(plain: Path, option: str):
    assert option.partition("=")[0] in str(refused(str(plain), "--local", "-s", f"slurm.{option}"))


def test_options_of_the_job_come_from_the_spec(plain: Path):
    plain.write_text(plain.read_text() + '\n[slurm]\npartition = "gpu"\nfolder = "jobs"\ntime_min = 90\n')
    table = noether.load_spec(plain, overrides=["slurm.time_min=30"]).spec.slurm
    assert (table.partition, table.time_min, table.folder) == ("gpu", 30, str(plain.parent / "jobs"))
    shown = CliRunner().invoke(app, [str(plain), "--dry-run"]).stdout
    assert "gpu" in shown and "90" in shown


def test_each_option_of_the_job_has_a_description():
    assert all(field.description for field in SlurmTable.model_fields.values())
