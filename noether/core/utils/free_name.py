"""Names that must not meet twice: ids of callbacks, made from what they are."""

from __future__ import annotations

from collections.abc import Container


def free_name(name: str, taken: Container[str]) -> str:
    """Return `name`, or where it is taken the first of `name-2`, `name-3`, … that is not."""
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}-{number}"
    return candidate
