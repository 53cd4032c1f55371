"""The lock of a run folder: two processes never work on one run.

A POSIX record lock, not `flock`: it belongs to the process alone, so that workers forked from it do not keep it alive,
and the system gives it back in the moment in which the process dies, however it dies.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from noether.core.writers.durable import storage_error
from noether.errors import UsageError

_HELD: set[Path] = set()  # record locks do not keep a process from itself


class RunLock:
    """Holds the lock of a run while a `with` block runs.

    What stands in the file says who holds it, for people; what counts is the lock.

    Args:
        run: The run's folder.
    """

    def __init__(self, run: Path) -> None:
        self.path = run.resolve() / "LOCK"
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        if self.path in _HELD:
            raise UsageError(f"{self.path.parent} is in use by this process", hint="let the other run end first")
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise storage_error(error, self.path) from error
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None
            raise UsageError(
                f"{self.path.parent} is in use{holder}",
                hint="wait for it, stop it, or choose another --run-id; a run that was killed holds no lock",
            ) from error
        _HELD.add(self.path)
        self._say_who()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._descriptor is not None, "left without having been entered"
        os.close(self._descriptor)  # which gives the lock back
        self._descriptor = None
        _HELD.discard(self.path)

    def _say_who(self) -> None:
        assert self._descriptor is not None, "the lock is held"
        who = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(who).encode(), 0)


def is_locked(run: Path) -> bool:
    """Whether another process works on a run; asking takes nothing away from it."""
    path = run.resolve() / "LOCK"
    if path in _HELD:
        return True
    if not path.exists():
        return False
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # also where the run is not ours to write to
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _holder(descriptor: int) -> str:
    """Return who the file says to hold the lock, as the end of a sentence."""
    try:
        who: Any = json.loads(os.pread(descriptor, 1024, 0))
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(who["started"])))
        return f" by process {int(who['pid'])} on {str(who['host'])[:80]}, since {started}"
    except (ValueError, KeyError, TypeError, OverflowError):
        return " by another process"
