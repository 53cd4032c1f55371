"""Files of a run folder, which may come from a stranger: no links, regular files only, within limits.

Every other module opens files of a run folder by these functions. The folder itself may be reached through links: a
folder of runs often is one, to a larger disk. Below it no part of a path may be a link, nothing but a regular file is
opened, and opening never waits, not even for a pipe.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, NoReturn

from noether.errors import UsageError

MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 36
"""Bytes of the machine's memory; a larger file is not read."""

_MISSING = (FileNotFoundError, NotADirectoryError)


class NotPlainError(OSError, ValueError):
    """A part of a path below a run folder is a link, is not of the expected type, or leads out of the folder."""


def open_inside(folder: Path, name: str | PurePath, flags: int = os.O_RDONLY) -> int:
    """Open a regular file below a folder, and return its descriptor.

    A file that is opened for writing must have no other name: its content is that of another file as well.

    Args:
        folder: The folder; its own path may contain links.
        name: Name of the file relative to the folder, with slashes; or, as a `Path`, its path, which begins with that
            of the folder.
        flags: Flags of `os.open`; with `O_CREAT` a missing file is created.

    Raises:
        NotPlainError: if a part is a link, leads out of the folder, or is of another type; it was not opened.
        OSError: if it does not exist, or cannot be opened.
    """
    *parents, last = _parts(folder, name)
    with ExitStack() as opened:
        place = _descend(opened, folder, parents)
        try:
            _require(stat.S_ISREG, last, place, "regular file")  # before opening it: opening a device has effects
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
        file = os.open(last, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644, dir_fd=place)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise NotPlainError(f"{last} is not a regular file")
        if flags & (os.O_WRONLY | os.O_RDWR) and status.st_nlink > 1:
            raise NotPlainError(f"{last} has other names: found {status.st_nlink} hard links, expected 1")
    except BaseException:
        os.close(file)
        raise
    return file


def read_untrusted(
    folder: Path, name: str | PurePath, *, below: str = "", size: int | None = None, limit: int = MEMORY
) -> bytes:
    """Return the bytes of a regular file below `folder`.

    Args:
        folder: The folder; its own path may contain links.
        name: Name of the file relative to the folder, with slashes; or, as a `Path`, its path, which begins with that
            of the folder.
        below: Folder below `folder` that a relative name begins in; errors leave it out.
        size: Expected size in bytes; None if unknown.
        limit: Largest size in bytes.

    Raises:
        OSError: if it cannot be opened or read.
        ValueError: if it is outside of the folder, is not a regular file, or has another size; it was not read.
    """
    file = open_inside(folder, f"{below}/{name}" if below else name)
    try:
        return _read(file, str(name), size, limit)
    finally:
        os.close(file)


def read_chosen(path: Path, *, limit: int = MEMORY) -> bytes:
    """Return the bytes of a regular file that the user has named; the path may contain links.

    Raises:
        OSError: if it cannot be opened or read.
        ValueError: if it is not a regular file, or too large; it was not read.
    """
    real = path.resolve(strict=True)
    return read_untrusted(real.parent, real.name, limit=limit)


def names_inside(folder: Path, name: str | PurePath = "") -> list[str]:
    """Return the sorted names in a folder, or in one below it; none if it does not exist.

    Raises:
        NotPlainError: if a part is a link, leads out of the folder, or is not a folder.
    """
    with ExitStack() as opened:
        try:
            return sorted(os.listdir(_descend(opened, folder, _parts(folder, name) if name else ())))
        except _MISSING:
            return []


def is_file_inside(folder: Path, name: str | PurePath) -> bool:
    """Return True if a regular file exists below a folder, and no part of its path is a link."""
    *parents, last = _parts(folder, name)
    with ExitStack() as opened:
        try:
            _require(stat.S_ISREG, last, _descend(opened, folder, parents), "regular file")
        except (OSError, ValueError):  # such as a name that is too long
            return False
    return True


def require_folders(folder: Path, path: Path) -> None:
    """Check that `path`, and each part of it below `folder`, is a folder and not a link, or does not exist.

    Raises:
        NotPlainError: if one is not, or `path` leads out of the folder.
    """
    if path == folder:
        return
    with ExitStack() as opened:
        try:
            _descend(opened, folder, _parts(folder, path))
        except FileNotFoundError:
            return


def is_folder(path: Path) -> bool:
    """Return True for a folder that is not a link."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def _parts(folder: Path, name: str | PurePath) -> tuple[str, ...]:
    """Return the parts of a path below a folder."""
    given = PurePosixPath(name)
    is_below = given.is_relative_to(folder) if isinstance(name, PurePath) else not given.is_absolute()
    given = given.relative_to(folder) if isinstance(name, PurePath) and is_below else given
    if not is_below or not given.parts or ".." in given.parts:
        raise NotPlainError(f"{str(name)!r} is outside of the folder")
    return given.parts


def require_posix(folder: Path) -> None:
    """Refuse to use a run folder on a system on which it cannot be opened safely.

    Raises:
        UsageError: if the system is Windows.
    """
    if sys.platform == "win32":
        raise UsageError(
            f"unsupported system: found {sys.platform}, expected POSIX, for the run folder {folder}",
            hint="check, plan and spec work here; train in WSL or on Linux",
        )


def _descend(opened: ExitStack, folder: Path, parts: tuple[str, ...] | list[str]) -> int:
    """Open a folder, and one below it part by part; return the descriptor of the last, which `opened` closes."""
    if sys.platform == "win32":  # no `dir_fd`
        if not folder.exists() or not any(folder.iterdir()):
            raise FileNotFoundError(folder)
        require_posix(folder)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    place = _open(opened, folder, flags)
    for part in parts:
        _require(stat.S_ISDIR, part, place, "folder")
        place = _open(opened, part, flags | os.O_NOFOLLOW, place)
    return place


def _open(opened: ExitStack, path: Path | str, flags: int, place: int | None = None) -> int:
    descriptor = os.open(path, flags, dir_fd=place)
    opened.callback(os.close, descriptor)
    return descriptor


def _require(is_kind: Callable[[int], bool], name: str, place: int, kind: str) -> None:
    mode = os.stat(name, dir_fd=place, follow_symlinks=False).st_mode
    if not is_kind(mode):
        found = "a symbolic link" if stat.S_ISLNK(mode) else "a file of another type"
        raise NotPlainError(f"{name} cannot be read: found {found}, expected a {kind}")


def _read(file: int, name: str, size: int | None, limit: int) -> bytes:
    status = os.fstat(file)
    if size is not None and status.st_size != size:
        raise ValueError(f"{name} is not what was saved: found {status.st_size} bytes, expected {size}")
    if status.st_size > limit:
        raise ValueError(f"{name} is too large: found {status.st_size} bytes, expected at most {limit}")
    try:
        with os.fdopen(file, "rb", closefd=False) as stream:
            return stream.read(status.st_size)
    except MemoryError:
        raise ValueError(f"{name} has {status.st_size} bytes, more than there is memory for") from None


MAX_BYTES = 32 << 20
MAX_ITEMS = 1_000_000
MAX_DEPTH = 64
TOO_DEEP = f"found more than {MAX_DEPTH} levels of nesting"


def parse_json(data: bytes) -> Any:
    """Parse strict JSON within the limits.

    Raises:
        ValueError: if it is not JSON, is too large or too deep, has a key twice, or has numbers that JSON lacks.
    """
    if (excess := json_excess(data)) is not None:
        raise ValueError(excess)
    try:
        tree = json.loads(data.decode(), parse_constant=_refuse_constant, object_pairs_hook=_distinct)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    if is_too_deep(tree):
        raise ValueError(TOO_DEEP)
    return tree


def read_record(folder: Path, name: str | PurePath) -> dict[str, Any]:
    """Return the JSON object in a file below a folder; an empty one if it cannot be read.

    Args:
        folder: As in `open_inside`.
        name: See there.
    """
    try:
        record = parse_json(read_untrusted(folder, name, limit=MAX_BYTES))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def json_excess(data: bytes) -> str | None:
    """Return the limit that a JSON text exceeds, or None; counts without parsing."""
    if len(data) > MAX_BYTES:
        return f"found {len(data)} bytes, expected at most {MAX_BYTES}"
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_ITEMS:
        return f"found more than {MAX_ITEMS} values"
    return None


def is_too_deep(tree: Any) -> bool:
    """Return True if a tree of lists and dicts is deeper than the limit."""
    level = [tree] if isinstance(tree, dict | list) else []
    for _ in range(MAX_DEPTH):  # of containers: there may be thousands of names in them
        level = [
            item
            for parent in level
            for item in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(item, dict | list)
        ]
        if not level:
            return False
    return any(level)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("an object has the same key twice")
    return table
