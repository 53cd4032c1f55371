"""What the JSON of a checkpoint may be: the same limits where it is written and where it is read.

A file within them is parsed in a fraction of a second, whoever wrote it; one beyond them is refused where it is
written, with a way out, instead of where somebody needs it.
"""

from __future__ import annotations

import json
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
