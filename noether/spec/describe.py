"""Say in plain words what a document holds: for `found …` in messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from noether.kernel.names import did_you_mean
from noether.spec.quoting import quoted


def described(value: Any) -> str:
    """Return what `value` is in a spec's words: `the string "yes"`, `the integer 3`, `a table`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the string {quoted(value)}"
    if isinstance(value, int):
        return f"the integer {value}"
    if isinstance(value, float):
        return f"the number {value}"
    if isinstance(value, dict):
        return "a table"
    return "a list" if isinstance(value, (list, tuple)) else type(value).__name__


def suggestion(name: str, candidates: Iterable[str]) -> str:
    """Return `". Did you mean 'x'?"` to end a message with, or an empty string."""
    guess = did_you_mean(name, candidates)
    return f".{guess}" if guess else ""
