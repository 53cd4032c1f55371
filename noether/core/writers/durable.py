"""File operations of a save: every byte is on the disk before anything points to it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from noether.errors import StorageError


def write_new_file(path: Path, data: bytes) -> None:
    """Create `path` with `data` and wait until it is stored; the file must not exist."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are stored."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` in the place of `path` at once: readers see the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        write_new_file(temporary, data)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # the refusal itself is what the user must hear of
            temporary.unlink(missing_ok=True)
        raise storage_error(error, path) from error


def storage_error(error: OSError, path: Path) -> StorageError:
    """Turn an operating system's refusal to write `path` into a message with a way out."""
    return StorageError(
        f"cannot write {path}: {error.strerror or error}",
        hint="free some space or make the folder writable; everything that was committed before is still valid",
    )
