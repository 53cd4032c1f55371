"""Whole commands: `noether run --nproc`, `torchrun -m noether run`, what is killed in them, and what is left."""

import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import tomli_w

from noether.checkpoint.paths import checkpoint_folders, read_checkpoint

SAVES = {"kind": "checkpoint", "every_n_updates": 4}
pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]
DEADLINE_S = 180.0
MARK = "NOETHER_TEST_LAUNCH"


class Launch:
    """A command whose processes, those of the ranks too, are found by a variable in their environment."""

    def __init__(self, *command: str, environment: dict[str, str] | None = None) -> None:
        self.mark = uuid.uuid4().hex
        variables = {**os.environ, MARK: self.mark, "OMP_NUM_THREADS": "1", **(environment or {})}
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self.output = ""

    def ranks(self) -> dict[int, psutil.Process]:
        """Return the processes of the ranks that live now."""
        found = {}
        for process in self.processes():
            with suppress(psutil.Error):
                if process.environ().get("RANK") and "multiprocessing" not in " ".join(process.cmdline()):
                    found[int(process.environ()["RANK"])] = process
        return found

    def processes(self) -> list[psutil.Process]:
        """Return all processes that it has started and that live now."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def until(self, condition) -> None:
        """Wait until something is the case while it runs."""
        while not condition():
            assert self._process.poll() is None, f"it has ended before: {self.end()}\n{self.output}"
            assert time.monotonic() - self._started < DEADLINE_S, "what was waited for did not come"
            time.sleep(0.02)

    def end(self) -> int:
        """Wait for its end, and that of all that it has started; return its exit code."""
        self.output, _ = self._process.communicate(timeout=DEADLINE_S)
        return self._process.returncode

    def require_none_left(self, within: float = 15.0) -> None:
        deadline = time.monotonic() + within
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [process.cmdline() for process in left] == []

    def close(self) -> None:
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def launch(spec, workplace):
    """Starts a command with a spec that is changed: `launch("run-1", 3, {...})` is `noether run --nproc 3`."""
    begun = []

    def start(run_id, ranks, changes=None, *more, launcher=(), environment=None):
        tables = {**spec, "trainer": {**spec["trainer"], "callbacks": [SAVES], **(changes or {})}}
        Path("spec.toml").write_text(tomli_w.dumps(tables))
        nproc = [] if launcher else ["--nproc", str(ranks)]
        command = ["noether", "run", "spec.toml", "--run-id", run_id, "--quiet", *nproc, *more]
        begun.append(Launch(*launcher, *command, environment=environment))
        return begun[-1]

    yield start
    for one in begun:
        one.close()


def files_of(run_id):
    """Return the files of the last checkpoint that have no time in them."""
    newest = checkpoint_folders(Path("runs") / run_id / "checkpoints")[-1]
    names = ("model.safetensors", "optimizer.safetensors", "rank-00000.json", "rank-00001.json")
    return newest.name, {name: (newest / name).read_bytes() for name in names if (newest / name).exists()}


def updates_of(run_id):
    return [read_checkpoint(step)[0].update for step in checkpoint_folders(Path("runs") / run_id / "checkpoints")]


def kills(*ranks):
    return {"kind": "lab.ranks.Signals", "ranks": list(ranks), "numbers": [signal.SIGKILL], "update": 10}


SLOW = {"max_updates": 100_000}
"""A run that ends only when it is told to."""

LONGER = {"max_updates": 400, "callbacks": [{**SAVES, "every_n_updates": 50}]}
"""A run that is not over when its first checkpoint has been seen."""


def begins(run_id):
    """Return a condition: the run has committed a checkpoint."""
    return lambda: list((Path("runs") / run_id / "checkpoints").glob("step-*"))


def test_a_killed_rank_is_started_again_with_the_others_and_the_run_ends_with_the_same_bytes(launch, on):
    command = launch("killed", 3, {"callbacks": [kills(1), SAVES]}, "--max-restarts", "1")
    assert command.end() == 0, command.output
    command.require_none_left()
    on(3, {"trainer.callbacks": [kills(1), SAVES]}, {"TORCHELASTIC_RESTART_COUNT": "1"}, run_id="straight")
    assert files_of("killed") == files_of("straight")
    assert len(list(Path("runs/killed/attempts").glob("*.json"))) == 2


def test_a_rank_that_is_killed_without_restarts_is_named(launch):
    command = launch("killed", 2, {"callbacks": [kills(1), SAVES]})
    assert command.end() == 1
    assert "rank 1" in command.output
    assert "SIGKILL" in command.output
    assert "Traceback" not in command.output
    command.require_none_left()


def test_ranks_whose_launcher_was_killed_commit_and_end_and_the_run_goes_on(launch, on, figures):
    command = launch("orphans", 2, LONGER)
    command.until(begins("orphans"))
    os.kill(command.pid, signal.SIGKILL)
    killed = time.monotonic()
    command.require_none_left(within=40.0)
    figures("orphans", seconds=time.monotonic() - killed)
    updates = updates_of("orphans")
    assert updates[-1] < 400
    assert launch("orphans", 2, LONGER, "--resume", "auto").end() == 0
    on(2, {f"trainer.{name}": value for name, value in LONGER.items()}, run_id="straight")
    assert files_of("orphans") == files_of("straight")


def test_a_run_of_which_all_processes_were_killed_goes_on_to_the_same_bytes(launch, on):
    command = launch("killed", 3, LONGER)
    command.until(begins("killed"))
    for process in command.processes():
        with suppress(psutil.Error):
            process.kill()
    command.end()
    assert launch("killed", 3, LONGER, "--resume", "auto").end() == 0
    on(3, {f"trainer.{name}": value for name, value in LONGER.items()}, run_id="straight")
    assert files_of("killed") == files_of("straight")


def to_launcher(command, number):
    os.kill(command.pid, number)


def to_ranks(command, number):
    for rank in command.ranks().values():
        rank.send_signal(number)


def to_one_rank(command, number):
    command.ranks()[1].send_signal(number)


def to_all(command, number):
    for process in command.processes():
        with suppress(psutil.Error):
            process.send_signal(number)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("whom", [to_launcher, to_one_rank, to_ranks, to_all])
def test_sigterm_commits_one_update_and_ends_with_143_whoever_gets_it(launch, whom, times, figures):
    command = launch("stopped", 2, {**SLOW, "callbacks": []})
    command.until(lambda: Path("runs/stopped/metrics.jsonl").exists())
    sent = time.monotonic()
    for _ in range(times):
        with suppress(psutil.Error, ProcessLookupError, KeyError):
            whom(command, signal.SIGTERM)
    assert command.end() == 143, command.output
    figures("SIGTERM of several ranks", seconds=time.monotonic() - sent)
    assert time.monotonic() - sent < 30
    assert len(updates_of("stopped")) == 1
    command.require_none_left()


def test_ctrl_c_ends_with_130_and_leaves_nothing(launch):
    command = launch("stopped", 2, SLOW)
    command.until(begins("stopped"))
    to_all(command, signal.SIGINT)
    assert command.end() == 130, command.output
    assert "Traceback" not in command.output
    command.require_none_left()


def test_torchrun_starts_the_same_run(launch, on):
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    command = launch("torchrun", 2, launcher=launcher)
    assert command.end() == 0, command.output
    on(2, {"trainer.callbacks": [SAVES]}, run_id="straight")
    assert files_of("torchrun") == files_of("straight")


def test_a_run_under_torchrun_is_started_again_and_ends_with_the_same_bytes(launch, on):
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1", "-m")
    changes = {"callbacks": [kills(0), SAVES]}
    command = launch("torchrun", 2, changes, launcher=launcher)
    assert command.end() == 0, command.output
    on(2, {"trainer.callbacks": changes["callbacks"]}, {"TORCHELASTIC_RESTART_COUNT": "1"}, run_id="straight")
    assert files_of("torchrun") == files_of("straight")


def test_a_spec_with_an_error_is_refused_once_and_not_started_again(launch):
    command = launch("wrong", 2, {"max_updatez": 3}, "--max-restarts", "3")
    assert command.end() == 2
    assert command.output.count("error[") == 1
    command.require_none_left()
