"""Names: did-you-mean, free names, lists of names, names that may become part of a path, control characters."""

from __future__ import annotations

import difflib
import re
from collections.abc import Container, Iterable, Sequence
from itertools import islice

TARGET = "_target"
"""End of the name of the property that a field is compared with: `pressure_target` of `pressure`."""


def free_name(name: str, taken: Container[str]) -> str:
    """Return `name`, or if it is taken the first of `name-2`, `name-3`, … that is not."""
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}-{number}"
    return candidate


LONGEST = 128  # characters of a part of a path; file systems allow 255 bytes
LONGEST_PATH = 1000  # characters of a path
EXPECTED = f"letters, digits, '.', '_', '-', '+' and '=', beginning with a letter, a digit or '_', at most {LONGEST}"

_PART = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9._=+-]{{0,{LONGEST - 1}}}")


def is_path_part(name: str) -> bool:
    """Return True if `name` can name a file or folder: ASCII, short, neither hidden nor an option nor `..`."""
    return _PART.fullmatch(name) is not None


def are_path_parts(path: str) -> bool:
    """Return True if a relative path with slashes is short and each of its parts can name a file or folder."""
    return len(path) <= LONGEST_PATH and all(is_path_part(part) for part in path.split("/"))


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def has_control(name: str) -> bool:
    """Return True if a name has characters that act on a terminal that shows it, or that no file can hold."""
    return not name.isprintable() and _CONTROL.search(name) is not None


_LONGEST_COMPARED = 100  # characters; a longer name takes long to compare, and is not a misspelt one
_MOST_COMPARED = 200  # candidates


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def nearest(name: str, candidates: Iterable[str], *, similarity: float = 0.6) -> str | None:
    """Return the candidate closest to `name`, ignoring case and `-`/`_`, or None if none is close.

    Args:
        name: The misspelt name.
        candidates: The known names.
        similarity: Least similarity of a match, from 0 (anything) to 1 (equal).
    """
    if len(name) > _LONGEST_COMPARED:
        return None
    spelled = {_plain(candidate): candidate for candidate in islice(candidates, _MOST_COMPARED)}
    matches = difflib.get_close_matches(_plain(name), spelled, n=1, cutoff=similarity)
    return spelled[matches[0]] if matches else None


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` to append to a message, or an empty string."""
    match = nearest(name, candidates)
    return f" Did you mean '{match}'?" if match else ""


def listed(names: Sequence[str], most: int) -> str:
    """Return the first names, and the number of the others: `a, b and 3 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
