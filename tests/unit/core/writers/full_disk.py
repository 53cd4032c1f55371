"""A disk that refuses at a chosen moment."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

WRITING = [(os, "open"), (os, "write"), (os, "fsync"), (os, "mkdir"), (os, "rename"), (os, "replace")]


class FullDisk:
    """Counts the calls that change the disk, and refuses from the chosen one on, or only that one."""

    def __init__(self, refuse_at: int, *, forever: bool) -> None:
        self.calls = 0
        self.refuse_at = refuse_at
        self.forever = forever

    @property
    def has_refused(self) -> bool:
        return self.calls >= self.refuse_at

    def guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self.refuse_at or (self.forever and self.has_refused):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*args, **kwargs)

        return call


@contextmanager
def full_disk(refuse_at: int, *, forever: bool) -> Iterator[FullDisk]:
    """Let the disk refuse from the `refuse_at`th call on that would change it; removing always works."""
    disk = FullDisk(refuse_at, forever=forever)
    remove = shutil.rmtree
    with pytest.MonkeyPatch.context() as patch:
        for module, name in WRITING:
            patch.setattr(module, name, disk.guarded(getattr(module, name)))
        # shutil.rmtree opens folders by os.open; a full disk does not keep anybody from that.
        real = {name: getattr(os, name) for _, name in WRITING}

        def rmtree(path: Path, **options: Any) -> None:
            with pytest.MonkeyPatch.context() as inner:
                for name in ("open",):
                    inner.setattr(os, name, _real[name])
                remove(path, **options)

        patch.setattr(shutil, "rmtree", rmtree)
        del real
        yield disk


_real = {"open": os.open}
