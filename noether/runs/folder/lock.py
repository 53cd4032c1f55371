"""The lock of a run folder: two processes never work on one run.

A POSIX record lock, not `flock`: it belongs to the process alone, so that workers forked from it do not keep it alive,
and the system releases it as soon as the process dies.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from noether.checkpoint.durable import storage_error
from noether.errors import UsageError

_WRITTEN = ("LOCK", "log.txt", "metrics.jsonl", "nonscalars.jsonl")
_HELD: set[Path] = set()  # record locks do not keep a process from itself


class RunLock:
    """Context manager that holds the lock of a run.

    The text in the file names the holder for people; only the lock counts.

    Args:
        run: Folder of the run.
    """

    def __init__(self, run: Path) -> None:
        self.path = run.resolve() / "LOCK"
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        if self.path in _HELD:
            raise UsageError(f"{self.path.parent} is in use by this process", hint="wait for the end of the other run")
        _require_own_files(self.path.parent)
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise storage_error(error, self.path) from error
        try:
            self._lock(descriptor)
        except BaseException:
            os.close(descriptor)  # which releases the lock
            raise
        self._descriptor = descriptor
        _HELD.add(self.path)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._descriptor is not None, "left without having been entered"
        os.close(self._descriptor)  # which releases the lock
        self._descriptor = None
        _HELD.discard(self.path)

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                f"{self.path.parent} is in use{_holder(descriptor)}",
                hint="wait for it, stop it, or choose another --run-id; a run that was killed holds no lock",
            ) from error
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        except OSError as error:
            raise storage_error(error, self.path) from error


def is_locked(run: Path) -> bool:
    """Return True if a process works on a run; asking never releases the lock."""
    path = run.resolve() / "LOCK"
    if path in _HELD:
        return True
    if not path.is_file():  # only a file can be locked
        return False
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # also if the run is not ours to write to
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _require_own_files(run: Path) -> None:
    """Check that the files in which Noether goes on writing are files of this folder: it may come from a stranger.

    Raises:
        UsageError: if one of them is a link that leads elsewhere, or no file at all.
    """
    for path in (run / name for name in _WRITTEN):
        place = Path(os.path.realpath(path))  # unlike resolve, it takes a loop of links
        if not place.is_relative_to(run):
            raise UsageError(f"{path} leads out of the run folder, to {place}", hint="copy the file into the run")
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} is not a regular file", hint="remove it from the run folder")


def _holder(descriptor: int) -> str:
    """Return the end of a sentence that names the holder of a lock, from the file."""
    try:
        holder: Any = json.loads(os.pread(descriptor, 1024, 0))
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(holder["started"])))
        return f" by process {int(holder['pid'])} on {str(holder['host'])[:80]}, since {started}"
    except (ValueError, KeyError, TypeError, OverflowError):
        return " by another process"
