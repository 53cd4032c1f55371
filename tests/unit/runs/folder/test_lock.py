"""Two processes never use one run at the same time."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from noether.errors import StorageError, UsageError
from noether.runs.folder.lock import RunLock, is_locked

WRITTEN = ["LOCK", "log.txt", "metrics.jsonl", "nonscalars.jsonl"]
HOLDER = """
import os, sys
from pathlib import Path
from noether.runs.folder.lock import RunLock
with RunLock(Path(sys.argv[1])):
    child = os.fork() if len(sys.argv) > 2 else -1
    if child == 0:
        os.read(0, 1)  # a worker: inherits everything that is open
        os._exit(0)
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holding(run: Path, *, forks: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Hold the lock in another process; with `forks`, that has a child which outlives it."""
    command = [sys.executable, "-c", HOLDER, str(run), *(["forks"] if forks else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


def test_a_second_process_is_refused_with_the_holder_of_the_run(tmp_path: Path) -> None:  # I1
    with holding(tmp_path) as process:
        assert is_locked(tmp_path)
        with pytest.raises(UsageError) as caught, RunLock(tmp_path):
            pass
        assert f"process {process.pid} " in str(caught.value)
        assert is_locked(tmp_path)  # having been refused takes nothing away from the holder
    assert not is_locked(tmp_path)


def test_a_killed_process_leaves_no_lock_behind_though_its_worker_lives(tmp_path: Path) -> None:  # I3
    with holding(tmp_path, forks=True) as process:
        os.kill(process.pid, signal.SIGKILL)
        os.waitpid(process.pid, 0)
        with RunLock(tmp_path):
            pass


def test_one_process_does_not_work_twice_on_a_run(tmp_path: Path) -> None:
    with RunLock(tmp_path), pytest.raises(UsageError), RunLock(tmp_path):
        pass
    with RunLock(tmp_path):
        pass


def test_the_file_names_the_holder_of_the_lock(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        who = json.loads((tmp_path / "LOCK").read_bytes())
    assert who["pid"] == os.getpid()


def test_the_content_of_the_lock_file_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "LOCK").write_text("garbage of a holder that was killed")
    with RunLock(tmp_path):
        pass


@pytest.mark.parametrize("content", ["", "garbage", '{"pid": 1}', '{"pid": 1, "host": "h", "started": 1e999}'])
def test_a_holder_that_says_nothing_sensible_is_another_process(content: str, tmp_path: Path) -> None:
    with holding(tmp_path):
        (tmp_path / "LOCK").write_text(content)
        with pytest.raises(UsageError) as caught, RunLock(tmp_path):
            pass
        assert "another process" in str(caught.value)


@pytest.mark.parametrize("refuses", ["ftruncate", "pwrite"])
def test_a_lock_that_cannot_be_written_is_not_held(
    refuses: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    open_before = len(list(Path("/dev/fd").iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr(os, refuses, refuse)
        with pytest.raises(StorageError), RunLock(tmp_path):
            pass
    assert not is_locked(tmp_path)
    assert len(list(Path("/dev/fd").iterdir())) == open_before
    with RunLock(tmp_path):
        pass


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("target", ["precious", "not-there-yet"])
def test_a_file_that_leads_out_of_the_run_folder_is_not_written(name: str, target: str, tmp_path: Path) -> None:
    run, precious = tmp_path / "run", tmp_path / "precious"
    run.mkdir()
    precious.write_text("precious")
    (run / name).symlink_to(tmp_path / target)
    with pytest.raises(UsageError) as raised, RunLock(run):
        pass
    assert str(run / name) in raised.value.message
    assert precious.read_text() == "precious"
    assert not (tmp_path / "not-there-yet").exists()


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_refused_and_nobody_waits_for_it(
    name: str, make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path / name)
    assert not is_locked(tmp_path)
    with pytest.raises(UsageError) as raised, RunLock(tmp_path):
        pass
    assert str(tmp_path / name) in raised.value.message
