"""Two processes never use one run at the same time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from noether.checkpoint.commit import RunLostError
from noether.errors import StorageError, UsageError
from noether.runs.folder.lock import RunLock, is_locked

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


def test_a_copy_of_the_folder_by_the_holder_itself_releases_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    asks = "import sys, pathlib; from noether.runs.folder.lock import is_locked; print(is_locked(pathlib.Path('run')))"
    with RunLock(run):
        shutil.copytree(run, tmp_path / "copy")
        said = subprocess.run([sys.executable, "-c", asks], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert said.stdout == "True\n"


def move_and_begin_anew(run: Path) -> None:
    run.rename(run.with_name("moved"))
    run.mkdir()
    (run / "LOCK").touch()


def replace_the_lock(run: Path) -> None:
    (run / "LOCK").rename(run / "LOCK.old")
    (run / "LOCK").touch()


def link_the_lock_elsewhere(run: Path) -> None:
    (run / "LOCK").rename(run / "LOCK.old")
    (run / "LOCK").symlink_to("LOCK.old")


def move_and_link_the_lock(run: Path) -> None:
    run.rename(run.with_name("moved"))
    run.mkdir()
    os.link(run.with_name("moved") / "LOCK", run / "LOCK")


def close_all_files(run: Path) -> None:
    at = (run / "LOCK").stat()
    for descriptor in [int(path.name) for path in Path("/dev/fd").iterdir()]:
        with suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), at):
                os.close(descriptor)


@pytest.mark.parametrize(
    "happens",
    [
        move_and_begin_anew,
        replace_the_lock,
        link_the_lock_elsewhere,
        move_and_link_the_lock,
        close_all_files,
        lambda run: run.rename(run.with_name("moved")),
        lambda run: (run / "LOCK").unlink(),
    ],
)
def test_a_run_that_is_not_that_of_the_process_any_more_is_noticed(
    happens: Callable[[Path], object], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with RunLock(run) as lock:
        lock.require_own()
        happens(run)
        with pytest.raises(RunLostError):
            lock.require_own()


def test_a_forked_child_is_not_the_owner_and_may_not_write(tmp_path: Path) -> None:
    asks = """
import os, pathlib
from noether.runs.folder.lock import RunLock
with RunLock(pathlib.Path(".")) as lock:
    if os.fork() == 0:
        os._exit(10 * lock.is_own())
    print(os.waitstatus_to_exitcode(os.wait()[1]), lock.is_own())
"""
    said = subprocess.run([sys.executable, "-c", asks], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert said.stdout == "0 True\n"


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageError, match="no locks"), RunLock(tmp_path):
        pass


def test_a_lock_file_that_is_a_link_within_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("precious")
    (tmp_path / "LOCK").symlink_to("metrics.jsonl")
    with pytest.raises(UsageError), RunLock(tmp_path):
        pass
    assert (tmp_path / "metrics.jsonl").read_text() == "precious"


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


@pytest.mark.parametrize("target", ["precious", "not-there-yet"])
def test_a_lock_that_leads_out_of_the_run_folder_is_not_written(target: str, tmp_path: Path) -> None:
    run, precious = tmp_path / "run", tmp_path / "precious"
    run.mkdir()
    precious.write_text("precious")
    (run / "LOCK").symlink_to(tmp_path / target)
    with pytest.raises(UsageError) as raised, RunLock(run):
        pass
    assert str(run / "LOCK") in raised.value.message
    assert precious.read_text() == "precious"
    assert not (tmp_path / "not-there-yet").exists()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_a_lock_that_is_no_file_is_refused_and_nobody_waits_for_it(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path / "LOCK")
    assert not is_locked(tmp_path)
    with pytest.raises(UsageError) as raised, RunLock(tmp_path):
        pass
    assert str(tmp_path / "LOCK") in raised.value.message
