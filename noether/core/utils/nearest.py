"""Did-you-mean: the known name that a misspelt one most likely meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice

_LONGEST = 100  # characters of a name; comparing longer ones takes long, and nobody has misspelt them
_MOST = 200  # candidates


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def nearest(name: str, candidates: Iterable[str], *, similarity: float = 0.6) -> str | None:
    """Return the candidate closest to `name`, ignoring case and `-`/`_`, or None where none is close.

    Args:
        name: The name.
        candidates: What it may have meant.
        similarity: How close one has to be, from 0 (anything) to 1 (equal).
    """
    if len(name) > _LONGEST:
        return None
    spelled = {_plain(candidate): candidate for candidate in islice(candidates, _MOST)}
    matches = difflib.get_close_matches(_plain(name), spelled, n=1, cutoff=similarity)
    return spelled[matches[0]] if matches else None


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` to append to a message, or an empty string."""
    match = nearest(name, candidates)
    return f" Did you mean '{match}'?" if match else ""
