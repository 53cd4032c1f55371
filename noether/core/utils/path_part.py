"""Names that become a part of a path: what a user, a spec or a checkpoint calls something must stay in its folder."""

from __future__ import annotations

import re

LONGEST = 128
LONGEST_PATH = 1000
EXPECTED = f"letters, digits, '.', '_', '-', '+' and '=', beginning with a letter, a digit or '_', at most {LONGEST}"

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=+-]{0,%d}" % (LONGEST - 1))  # noqa: UP031  # braces belong to the pattern


def is_path_part(name: str) -> bool:
    """Tell whether `name` can be the name of a file or folder: ASCII, short, neither hidden nor an option nor `..`."""
    return _PART.fullmatch(name) is not None


def are_path_parts(path: str) -> bool:
    """Tell whether a relative path with slashes is short, and each part of it can be a name."""
    return len(path) <= LONGEST_PATH and all(is_path_part(part) for part in path.split("/"))
