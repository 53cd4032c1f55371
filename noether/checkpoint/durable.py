"""Durable writes: fsync, rename, fsync the parent.

Files change by functions of `os`, one system call each, which the tests of full disks and power failures replace.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, TypeAlias

from noether.checkpoint.untrusted import NotPlainError, require_folders
from noether.errors import StorageError

_LOG = logging.getLogger("noether.storage")
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP})
_warned_of: set[str] = set()
Chunk: TypeAlias = bytes | memoryview


class Streamed(Protocol):
    """Bytes that are made while they are written; the same ones each time, as long as their source does not change."""

    def __len__(self) -> int:
        """Return the number of bytes."""

    def chunks(self) -> Iterator[Chunk]:
        """Yield the bytes in order."""


Content: TypeAlias = bytes | Streamed


def chunks_of(content: Content) -> Iterable[Chunk]:
    """Return the content in pieces."""
    return (content,) if isinstance(content, bytes) else content.chunks()


def write_new_file(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Create `path` with the bytes of all chunks and wait until they are stored; the file must not exist.

    Raises:
        OSError: if the disk refuses. The file has to be thrown away then: after a refused fsync, another one may report
            success for bytes that are lost.
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
    """Create a folder in an existing one; its name is stored once the parent is synced.

    Raises:
        OSError: if the disk refuses, or the name is taken.
    """
    os.mkdir(path)  # noqa: PTH102


def make_folders(path: Path, *, inside: Path | None = None) -> None:
    """Create a folder and its missing parents, and wait until their names are stored.

    Args:
        path: The folder.
        inside: Run folder that it lies in, below which no part may be a link; None for a path that the user chose.

    Raises:
        NotPlainError: if a part below `inside` is a link.
        OSError: if the disk refuses, or a file of this name exists.
    """
    if inside is not None:
        require_folders(inside, path)
    if not path.is_dir():
        make_folders(path.parent)
        try:
            make_folder(path)
        except FileExistsError:  # another run that begins at the same moment was first, or a file has the name
            if path.is_symlink() or not path.is_dir():
                raise
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are stored; warn once if the file system cannot do that.

    Raises:
        OSError: if the disk refuses.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
        if not _warned_of:
            _warned_of.add("folder sync")
            _LOG.warning(
                "the file system of %s cannot sync folders: after a power failure the newest checkpoint may be missing",
                path,
            )
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Rename a file or folder at once; the new name is stored once its folder is synced."""
    os.rename(source, target)  # noqa: PTH104


def remove(path: Path) -> None:
    """Remove a file."""
    os.unlink(path)  # noqa: PTH108


def remove_tree(path: Path) -> None:
    """Remove a file, or a folder with everything in it; links are removed and not followed.

    Raises:
        OSError: if the disk refuses; the rest is still there.
    """
    if not stat.S_ISDIR(path.lstat().st_mode):
        remove(path)
        return
    for entry in list(path.iterdir()):
        remove_tree(entry)
    os.rmdir(path)  # noqa: PTH106


def tree_size(path: Path) -> tuple[int, int]:
    """Return the number of files below a folder and their bytes; a link counts as a file, and is not followed."""
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        return 1, status.st_size
    found = [tree_size(entry) for entry in path.iterdir()]
    return sum(files for files, _ in found), sum(size for _, size in found)


def replace_file(path: Path, data: bytes, *, inside: Path | None = None) -> None:
    """Replace `path` at once: readers see the old file or the new one. A link of that name is replaced, not followed.

    Args:
        path: The file.
        data: Its new content.
        inside: Run folder that it lies in, below which no part may be a link; None for a path that the user chose.

    Raises:
        StorageError: if the disk refuses; the old file stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if inside is not None:
            require_folders(inside, path.parent)
        with contextlib.suppress(FileNotFoundError):
            remove(temporary)
        write_new_file(temporary, [data])
        os.replace(temporary, path)  # noqa: PTH105
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # the first error is the cause, and the one to report
            remove(temporary)
        raise storage_error(error, path, needed=len(data)) from error


def probe(folder: Path) -> None:
    """Check that files can be created in a folder, before anything depends on it.

    Raises:
        StorageError: if they cannot.
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
    """Return the number of bytes that this user can still write in a folder; None if it is unknown."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def storage_error(error: OSError, path: Path, *, needed: int | None = None) -> StorageError:
    """Return the error for a file or folder that could not be written.

    Args:
        error: The operating system's error.
        path: The file or folder.
        needed: Its size in bytes; shown beside the free bytes if the disk is full.
    """
    room = _room(path, needed) if needed is not None and error.errno in _NO_ROOM else ""
    if isinstance(error, NotPlainError):
        return StorageError(f"cannot use {path}: {error}", hint="a run folder holds no links: put the files in it")
    return StorageError(
        f"cannot write {path}: {error.strerror or error}{room}",
        hint="free some space or make the folder writable; everything that was committed before is still valid",
    )


def size_text(size: int) -> str:
    """Return a number of bytes as text, `1.2 GB`; exact below a megabyte."""
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB")):
        if size >= 1000**power:
            return f"{size / 1000**power:.1f} {unit}"
    return f"{size} bytes"


def _room(path: Path, needed: int) -> str:
    """Return the needed and the free bytes as text; a quota may leave less than the disk has."""
    existing = next((folder for folder in path.parents if folder.is_dir()), None)
    free = None if existing is None else free_bytes(existing)
    on_disk = "" if free is None else f", {size_text(free)} are free on its disk"
    return f" ({size_text(needed)} are needed{on_disk})"
