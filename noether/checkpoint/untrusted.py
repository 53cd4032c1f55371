"""Files from strangers: limits on file type, size and JSON, checked before reading."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
"""Bytes of the machine's memory; a larger file is not read."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def read_untrusted(folder: Path, name: str, *, size: int | None = None, limit: int = MEMORY) -> bytes:
    """Return the bytes of a regular file below `folder`.

    Args:
        folder: The folder; its own path may contain links.
        name: Relative path of the file, with slashes; no part of it may be a link.
        size: Expected size in bytes; None if unknown.
        limit: Largest size in bytes.

    Raises:
        OSError: if it cannot be opened or read.
        ValueError: if it is outside of the folder, is not a regular file, or has another size; it was not read.
    """
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise ValueError(f"{name!r} is outside of the folder")
    with ExitStack() as opened:
        place = _open(opened, folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for part in parts[:-1]:
            _require(stat.S_ISDIR, part, place, "folder")
            place = _open(opened, part, _FOLDER, place)
        _require(stat.S_ISREG, parts[-1], place, "regular file")  # before opening it: opening a device has effects
        return _read(_open(opened, parts[-1], _FILE, place), name, size, limit)


def read_chosen(path: Path, *, limit: int = MEMORY) -> bytes:
    """Return the bytes of a regular file that the user has named; the path may contain links.

    Raises:
        OSError: if it cannot be opened or read.
        ValueError: if it is not a regular file, or too large; it was not read.
    """
    real = path.resolve(strict=True)
    return read_untrusted(real.parent, real.name, limit=limit)


def _open(opened: ExitStack, path: Path | str, flags: int, place: int | None = None) -> int:
    descriptor = os.open(path, flags, dir_fd=place)
    opened.callback(os.close, descriptor)
    return descriptor


def _require(is_kind: Callable[[int], bool], name: str, place: int, kind: str) -> None:
    mode = os.stat(name, dir_fd=place, follow_symlinks=False).st_mode
    if not is_kind(mode):
        found = "a symbolic link" if stat.S_ISLNK(mode) else "a file of another type"
        raise ValueError(f"{name} cannot be read: found {found}, expected a {kind}")


def _read(file: int, name: str, size: int | None, limit: int) -> bytes:
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{name} is not a regular file")
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


def json_excess(data: bytes) -> str | None:
    """Return the limit that a JSON text exceeds, or None; counts without parsing."""
    if len(data) > MAX_BYTES:
        return f"found {len(data)} bytes, expected at most {MAX_BYTES}"
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_ITEMS:
        return f"found more than {MAX_ITEMS} values"
    return None


def is_too_deep(tree: Any) -> bool:
    """Return True if a tree of lists and dicts is deeper than the limit."""
    level = [tree]
    for _ in range(MAX_DEPTH + 1):
        level = [
            item
            for parent in level
            if isinstance(parent, dict | list)
            for item in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("an object has the same key twice")
    return table
