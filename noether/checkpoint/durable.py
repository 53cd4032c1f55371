"""Durable writes: fsync, rename, fsync the parent."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, TypeAlias

from noether.errors import StorageError

Chunk: TypeAlias = bytes | memoryview


class Streamed(Protocol):
    """Bytes that are made while they are written; always the same ones as long as nothing changes what is behind."""

    def __len__(self) -> int:
        """Return how many bytes they are."""

    def chunks(self) -> Iterator[Chunk]:
        """Yield them in order."""


Content: TypeAlias = bytes | Streamed


def chunks_of(content: Content) -> Iterable[Chunk]:
    """Return the pieces of a content."""
    return (content,) if isinstance(content, bytes) else content.chunks()


_LOG = logging.getLogger("noether.storage")
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP})
_warned_of: set[str] = set()


def write_new_file(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Create `path` with the bytes of all chunks and wait until they are stored; the file must not exist.

    Raises:
        OSError: The disk refused. After a refused fsync nobody knows what is stored: the file has to be thrown away,
            since another fsync may report success for bytes that are lost.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Create a folder, whose parent exists; its name is stored once that one is synced.

    Raises:
        OSError: The disk refused, or there is something of that name.
    """
    os.mkdir(path)  # noqa: PTH102  # see the module's docstring


def make_folders(path: Path) -> None:
    """Create a folder and those above it, where they are missing, and wait until their names are stored.

    Raises:
        OSError: The disk refused, or there is a file of that name.
    """
    if not path.is_dir():
        make_folders(path.parent)
        make_folder(path)
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are stored; some file systems cannot, which is told once.

    Raises:
        OSError: The disk refused.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
        _warn_once(
            "folder sync",
            "the file system of %s cannot sync folders: after a power failure the newest checkpoint may be missing",
            path,
        )
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Give a file or folder another name in one step; the name is stored once its folder is synced."""
    os.rename(source, target)  # noqa: PTH104  # see the module's docstring


def remove(path: Path) -> None:
    """Remove a file."""
    os.unlink(path)  # noqa: PTH108  # see the module's docstring


def remove_tree(path: Path) -> None:
    """Remove a folder and all that is in it, or a file; links are removed and not followed.

    Raises:
        OSError: The disk refused; the rest is still there.
    """
    if not stat.S_ISDIR(path.lstat().st_mode):
        remove(path)
        return
    for entry in list(path.iterdir()):
        remove_tree(entry)
    os.rmdir(path)  # noqa: PTH106  # see the module's docstring


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` in the place of `path` at once: readers see the old file or the new one.

    Raises:
        StorageError: The disk refused; the old file stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with contextlib.suppress(FileNotFoundError):
            remove(temporary)
        write_new_file(temporary, [data])
        os.replace(temporary, path)  # noqa: PTH105  # see the module's docstring
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # the refusal itself is what the user must hear of
            remove(temporary)
        raise storage_error(error, path, needed=len(data)) from error


def probe(folder: Path) -> None:
    """Find out whether files can be made in a folder, before anything depends on it.

    Raises:
        StorageError: They cannot.
    """
    path = folder / f".tmp-probe-{os.getpid()}"
    try:
        write_new_file(path, [b"?"])
        remove(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            remove(path)
        raise storage_error(error, folder, needed=1) from error


def free_bytes(folder: Path) -> int | None:
    """Return how many bytes this user can still write in a folder; None where the system does not say."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def storage_error(error: OSError, path: Path, *, needed: int | None = None) -> StorageError:
    """Turn an operating system's refusal to write `path` into a message with a way out.

    Args:
        error: The refusal.
        path: What was to be written.
        needed: How many bytes that is; told together with those that are free where there is no room.
    """
    room = _room(path, needed) if needed is not None and error.errno in _NO_ROOM else ""
    return StorageError(
        f"cannot write {path}: {error.strerror or error}{room}",
        hint="free some space or make the folder writable; everything that was committed before is still valid",
    )


def size_text(size: int) -> str:
    """Return a number of bytes for people: `1.2 GB`, with the exact number where it is small."""
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB")):
        if size >= 1000**power:
            return f"{size / 1000**power:.1f} {unit}"
    return f"{size} bytes"


def _room(path: Path, needed: int) -> str:
    """Say how many bytes are needed and free; a quota may leave less than the disk has."""
    existing = next((folder for folder in path.parents if folder.is_dir()), None)
    free = None if existing is None else free_bytes(existing)
    said = "" if free is None else f", {size_text(free)} are free on its disk"
    return f" ({size_text(needed)} are needed{said})"


def _warn_once(topic: str, message: str, path: Path) -> None:
    if topic not in _warned_of:
        _warned_of.add(topic)
        _LOG.warning(message, path)
