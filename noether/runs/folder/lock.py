"""The lock of a run folder: two processes never work on one run.

The lock is `flock`, which belongs to the open file: code that opens and closes the same file, as a copy of the run
folder does, releases nothing. The system releases it as soon as the process dies. Forked children, such as workers of a
data loader, share the open file, so they close it at once and cannot keep the lock alive.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from noether.checkpoint.commit import RunLostError
from noether.checkpoint.durable import storage_error
from noether.checkpoint.untrusted import NotPlainError, open_inside
from noether.errors import StorageError, UsageError

NAME = "LOCK"
_IN_USE = frozenset({errno.EWOULDBLOCK, errno.EACCES})
_PATIENCE_S = 0.5
"""A process that was just killed, was just forked, or only asks for the holder, keeps the lock for milliseconds."""
_LOOK_EVERY_S = 0.01
_locks: set[RunLock] = set()


class RunLock:
    """Context manager that holds the lock of a run.

    The text in the file names the holder for people; only the lock counts.

    Args:
        run: Folder of the run.
    """

    def __init__(self, run: Path) -> None:
        self.run = run.absolute()
        self.path = run.resolve() / NAME
        self._descriptor: int | None = None
        self._file = self._folder = (0, 0)

    def __enter__(self) -> RunLock:
        self.path = self.run.resolve() / NAME  # the folder may be another one than when it was entered before
        if any(lock.path == self.path for lock in _locks):
            raise UsageError(f"{self.path.parent} is in use by this process", hint="wait for the end of the other run")
        try:
            self._descriptor = _opened(self.path.parent, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise storage_error(error, self.path) from error
        self._file = _same(os.fstat(self._descriptor))
        _locks.add(self)
        try:
            self._enter(self._descriptor)
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def require_own(self) -> None:
        """Check that the run is still that of this process: the same folder and lock file, and the lock is held.

        Raises:
            RunLostError: if the folder was moved, replaced or taken over; nothing may be written to it.
        """
        if not self.is_own():
            raise RunLostError(
                f"{self.run} is not the folder that this process has locked any more{self._taken_by()}",
                hint="it was moved, replaced or taken over; nothing more is written to it. Find the run with its LOCK, "
                "and resume it there",
            )

    def is_own(self) -> bool:
        """Return True if `require_own` raises nothing."""
        if self._descriptor is None:
            return False
        try:
            held, named = os.fstat(self._descriptor), (self.run / NAME).lstat()
            if not self._file == _same(held) == _same(named) or _same(self.run.stat()) != self._folder:
                return False
            _lock(self._descriptor)  # does nothing while it is held
            return True
        except OSError:
            return False

    def _enter(self, descriptor: int) -> None:
        if not _acquired(descriptor, self.path):
            raise in_use(self.path.parent, _holder(descriptor))
        self._folder = _same(self.run.stat())
        if not self.is_own():
            raise UsageError(f"{self.run} was moved by another process", hint="start the command again")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        except OSError as error:
            raise storage_error(error, self.path) from error

    def _release(self) -> None:
        """Close the file, which releases the lock; if it was closed before, its number may mean another file."""
        descriptor, self._descriptor = self._descriptor, None
        _locks.discard(self)
        if descriptor is not None:
            with contextlib.suppress(OSError):
                if _same(os.fstat(descriptor)) == self._file:
                    os.close(descriptor)

    def _taken_by(self) -> str:
        holder = holder_of(self.run)
        return f"; it is in use{holder}" if holder is not None and holder != _THIS else ""


def is_locked(run: Path) -> bool:
    """Return True if a process works on a run."""
    return holder_of(run) is not None


def holder_of(run: Path) -> str | None:
    """Return the end of a sentence that names the process that works on a run; None if there is none."""
    folder = run.resolve()
    if any(lock.path == folder / NAME for lock in _locks):
        return _THIS
    try:
        descriptor = _opened(folder, os.O_RDONLY)  # also if the run is not ours to write to
    except (OSError, UsageError):  # only a file of the folder can be locked
        return None
    try:
        _lock(descriptor, is_shared=True)
    except OSError as error:
        return _holder(descriptor) if error.errno in _IN_USE else None
    finally:
        os.close(descriptor)
    return None


def in_use(run: Path, holder: str) -> UsageError:
    """Return the error for a run that another process works on.

    Args:
        run: Folder of the run.
        holder: The end of a sentence that names the process.
    """
    return UsageError(
        f"{run} is in use{holder}",
        hint="wait for it, stop it, or choose another --run-id; a run that was killed holds no lock",
    )


_THIS = " by this process"


def _opened(folder: Path, flags: int) -> int:
    """Return a descriptor of the lock file; it is a file of this folder, whoever made the folder.

    Raises:
        UsageError: if it is a link or not a regular file.
        OSError: if it cannot be opened.
    """
    try:
        return open_inside(folder, NAME, flags)
    except NotPlainError as error:
        raise UsageError(f"{folder / NAME} cannot be used: {error}", hint="remove it from the run folder") from error


def _acquired(descriptor: int, path: Path) -> bool:
    """Lock a file; return False if another process keeps it locked.

    Raises:
        StorageError: if the file system has no locks.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno not in _IN_USE:
                raise StorageError(
                    f"cannot lock {path}: {error.strerror}: the file system has no locks, so two processes could "
                    "write into one run",
                    hint="let `output` name a folder on another disk, or let the mount support flock",
                ) from error
        else:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_EVERY_S)


def _lock(descriptor: int, *, is_shared: bool = False) -> None:
    """Lock a file without waiting; it may be locked already.

    Raises:
        OSError: if another process holds the lock, or the file system has none.
    """
    import fcntl  # POSIX only

    fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def _same(found: os.stat_result) -> tuple[int, int]:
    """Return the identity of a file or folder, whatever its name."""
    return found.st_dev, found.st_ino


def _release_in_child() -> None:
    """Close the lock files in a forked child; the lock stays with its parent."""
    for lock in list(_locks):
        lock._release()


if hasattr(os, "register_at_fork"):  # POSIX only
    os.register_at_fork(after_in_child=_release_in_child)


def _holder(descriptor: int) -> str:
    """Return the end of a sentence that names the holder of a lock, from the file."""
    try:
        holder: Any = json.loads(os.pread(descriptor, 1024, 0))
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(holder["started"])))
        host = "".join(letter for letter in str(holder["host"])[:80] if letter.isprintable())
        return f" by process {int(holder['pid'])} on {host}, since {started}"
    except (ValueError, KeyError, TypeError, OverflowError):
        return " by another process"
