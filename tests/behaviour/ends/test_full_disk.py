"""A write that fails ends the run with a clear message; committed checkpoints stay valid."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w

from noether.checkpoint import durable
from noether.errors import StorageError

EVERY_TWO = [{"kind": "checkpoint", "every_n_updates": 2}]


class Disk:
    """The `os` of the durable writer: `function` refuses at its n-th call after the first checkpoint."""

    def __init__(self, function: str, call: int, *, for_good: bool = False) -> None:
        self.function, self.call, self.for_good, self.calls = function, call, for_good, 0

    def __getattr__(self, name):
        if name == self.function and list(Path("runs").glob("*/checkpoints/step-*")):
            self.calls += 1
            if self.calls == self.call or (self.for_good and self.calls > self.call):
                return self.refuse
        return getattr(os, name)

    @staticmethod
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", range(2, 11))
@pytest.mark.parametrize("function", ["open", "write", "fsync"])
def test_a_save_that_fails_at_any_call_leaves_the_earlier_checkpoints(
    run, attempt, verified_updates, monkeypatch, function, call
):
    disk = Disk(function, call)
    monkeypatch.setattr(durable, "os", disk)
    outcome = run({"trainer.callbacks": EVERY_TWO, "trainer.max_epochs": 1, "checkpoints.keep_last": 9})
    assert disk.calls >= call, "the disk was not asked as often"
    assert outcome.exit_code == 1
    assert isinstance(outcome.error, StorageError)
    assert "No space left on device" in outcome.error.message
    assert "free some space" in outcome.error.hint
    assert verified_updates(outcome.run_dir) in ([2], [2, 4])
    assert list((outcome.run_dir / "checkpoints").glob(".*")) == []
    assert attempt(outcome)["status"] == "FAILED"


def test_a_disk_that_refuses_for_good_fails_the_run_the_same(run, verified_updates, monkeypatch):
    monkeypatch.setattr(durable, "os", Disk("write", 3, for_good=True))
    outcome = run({"trainer.callbacks": EVERY_TWO, "trainer.max_epochs": 1})
    assert outcome.exit_code == 1
    assert isinstance(outcome.error, StorageError)
    assert verified_updates(outcome.run_dir) == [2]


def test_metrics_that_find_no_room_end_the_command_with_one_message(tiny_spec, verified_updates):
    tiny_spec["trainer"] |= {"max_epochs": 100, "track_every_n_updates": 1, "callbacks": EVERY_TWO}
    Path("tiny.toml").write_text(tomli_w.dumps(tiny_spec))
    command = [sys.executable, "-m", "noether", "run", "tiny.toml", "--run-id", "full", "--quiet"]
    done = subprocess.run(command, preexec_fn=small_files, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    assert "cannot write" in done.stderr
    assert "File too large" in done.stderr
    assert verified_updates(Path("runs/full"))
    for line in Path("runs/full/metrics.jsonl").read_text().splitlines():
        assert line.endswith("}")


def small_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
