"""Say in plain words what a document holds: for `found …` in messages."""

from __future__ import annotations

from typing import Any

from noether.spec.problem import quoted


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
