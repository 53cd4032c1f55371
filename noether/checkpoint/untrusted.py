"""Files that may come from a stranger: limits on kind, size and JSON, checked before reading."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

MAX_BYTES = 32 << 20
MAX_ITEMS = 1_000_000
MAX_DEPTH = 64


def json_excess(data: bytes) -> str | None:
    """Return what in a JSON text goes beyond the limits, or None; counts without parsing."""
    if len(data) > MAX_BYTES:
        return f"it has {len(data)} bytes, at most {MAX_BYTES} are read"
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_ITEMS:
        return f"it has more than {MAX_ITEMS} values"
    return None


def parse_json(data: bytes) -> Any:
    """Parse strict JSON within the limits.

    Raises:
        ValueError: It is none: too large or too deep, with a key twice, or with numbers that JSON does not have.
    """
    if (excess := json_excess(data)) is not None:
        raise ValueError(excess)
    try:
        tree = json.loads(data.decode(), parse_constant=_refuse_constant, object_pairs_hook=_distinct)
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from None
    if is_too_deep(tree):
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    return tree


def is_too_deep(tree: Any) -> bool:
    """Tell whether a tree of lists and dicts is deeper than the limit."""
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
    raise ValueError(f"{name} is no number of JSON")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("an object has one key twice")
    return table


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
"""No file that is larger than the machine's memory is read as a whole."""


def read_untrusted(folder: Path, name: str, *, size: int | None = None, limit: int = MEMORY) -> bytes:
    """Return the bytes of a regular file below `folder`.

    Args:
        folder: Where to start; it may itself be reached through links.
        name: The file, relative, with slashes; no part of it may be a link.
        size: How many bytes it must have, where that is known.
        limit: How many it may have at most.

    Raises:
        OSError: It cannot be opened or read.
        ValueError: It leads out of the folder, is no regular file, or has another size; it was not read.
    """
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise ValueError(f"{name!r} is outside of the folder")
    with ExitStack() as opened:
        place = _open(opened, folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for part in parts[:-1]:
            _require(stat.S_ISDIR, part, place, "folder")
            place = _open(opened, part, _FOLDER, place)
        _require(stat.S_ISREG, parts[-1], place, "regular file")  # before it is opened: opening a device does things
        return _read(_open(opened, parts[-1], _FILE, place), name, size, limit)


def read_chosen(path: Path, *, limit: int = MEMORY) -> bytes:
    """Return the bytes of a regular file that the user has named, who may name a link.

    Raises:
        OSError: It cannot be opened or read.
        ValueError: It is no regular file, or too large; it was not read.
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
        raise ValueError(f"{name} is {'a symbolic link' if stat.S_ISLNK(mode) else 'something else'}, no {kind}")


def _read(file: int, name: str, size: int | None, limit: int) -> bytes:
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{name} is no regular file")
    if size is not None and status.st_size != size:
        raise ValueError(f"{name} is not what was saved: it has {status.st_size} bytes instead of {size}")
    if status.st_size > limit:
        raise ValueError(f"{name} has {status.st_size} bytes, at most {limit} can be read")
    try:
        with os.fdopen(file, "rb", closefd=False) as stream:
            return stream.read(status.st_size)
    except MemoryError:
        raise ValueError(f"{name} has {status.st_size} bytes, for which there is no memory") from None
