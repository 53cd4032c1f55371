"""A disk that refuses, or a process that dies, at a chosen call."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

CHANGING = ("open", "write", "fsync", "mkdir", "rename", "replace")
REMOVING = ("unlink", "rmdir")


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the code under test may catch it or clean up after it."""


class Disk:
    """Counts the calls that change something, and raises at one of them and at all that follow.

    Attributes:
        calls: Calls so far.
        failed: Whether it has raised.
    """

    def __init__(self, fail_at: int, error: Callable[[], BaseException]) -> None:
        self.calls = 0
        self.failed = False
        self._fail_at = fail_at
        self._error = error

    def guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if function is _OPEN and not args[1] & os.O_CREAT:
                return function(*args, **kwargs)  # reading is always allowed
            self.calls += 1
            if self.calls >= self._fail_at:
                self.failed = True
                raise self._error()
            return function(*args, **kwargs)

        return call


_OPEN = os.open


@contextmanager
def _guarded(disk: Disk, names: tuple[str, ...]) -> Iterator[Disk]:
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(os, name, disk.guarded(getattr(os, name)))
        yield disk


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[Disk]]:
    """From the nth call on that writes, the disk is full; removing still works."""
    return lambda nth: _guarded(Disk(nth, lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))), CHANGING)


@pytest.fixture
def hiccup() -> Callable[[int], AbstractContextManager[Disk]]:
    """Only the nth call that writes is refused."""

    def at(nth: int) -> AbstractContextManager[Disk]:
        def error() -> OSError:
            disk._fail_at = 2**31
            return OSError(errno.EIO, os.strerror(errno.EIO))

        disk = Disk(nth, error)
        return _guarded(disk, CHANGING)

    return at


@pytest.fixture
def killed() -> Callable[[int], AbstractContextManager[Disk]]:
    """At the nth call that writes or removes, the process dies: nothing that follows happens."""

    @contextmanager
    def at(nth: int) -> Iterator[Disk]:
        disk = Disk(nth, Killed)
        try:
            with _guarded(disk, CHANGING + REMOVING):
                yield disk
        except Killed:
            pass

    return at
