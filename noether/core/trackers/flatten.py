"""Nested tables of a spec as the flat parameters that trackers show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def flatten_params(spec: Mapping[str, Any]) -> dict[str, str]:
    """Return every value of a spec under its dotted path: `{"trainer.callbacks.0.kind": "ema"}`.

    Lists of plain values stay one parameter (`[256, 256]`), lists of tables are counted from 0; what is None
    is left out.
    """
    return dict(_walk("", spec))


def _walk(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _walk(f"{path}.{name}" if path else str(name), item)
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from _walk(f"{path}.{index}", item)
    elif value is not None and path:
        yield path, str(value)
