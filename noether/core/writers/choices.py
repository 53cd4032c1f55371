"""What to say to somebody who asks for a checkpoint by a name that there is not."""

from __future__ import annotations

from collections.abc import Sequence

from noether.kernel.names import did_you_mean

_IN_ONE_LINE = 4
_MEANT = 3  # suggestions at most


def meant_by(name: str, known: Sequence[str]) -> str:
    """Return `" Did you mean …?"` to append to a message, or an empty string.

    A name may be the beginning of others: `E8` of `E8_U176_S11264`, and `best_model` of every best one.

    Args:
        name: The name that was asked for.
        known: All that there are.
    """
    spelt = name.replace("/", ".")
    beginnings = (f"{spelt}_".lower(), f"{spelt}.".lower())
    longer = [candidate for candidate in known if candidate.lower().startswith(beginnings)]
    if not longer:
        return did_you_mean(spelt, known)
    return f" Did you mean {' or '.join(map(repr, longer[:_MEANT]))}?"


def choices(known: Sequence[str]) -> str:
    """Return a hint with all names that there are: few with commas between them, many below each other."""
    if len(known) > _IN_ONE_LINE:
        return "\n    ".join(["it has", *known])
    return "it has " + (", ".join(known) or "none that is sound")
