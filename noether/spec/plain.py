"""Bring what a document holds, from a file or from Python, to what JSON can express."""

from __future__ import annotations

import datetime
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel

from noether.errors import SpecError
from noether.spec.layer import Layer
from noether.spec.limits import MAX_DEPTH, depth_of
from noether.spec.locate import TomlPath
from noether.spec.problem import InvalidSpecError, Problem


def plain(document: dict[str, Any], layer: Layer | None = None) -> dict[str, Any]:
    """Return a copy of tables, lists, text, numbers and booleans only.

    Dates become ISO text, paths text, tuples lists and configs tables. A key with None is left out, as TOML
    has no null.

    Args:
        document: What to copy.
        layer: Who says it, for places in messages.

    Raises:
        SpecError: A value has no counterpart in TOML, or the nesting is too deep (or endless).
    """
    if depth_of(document) > MAX_DEPTH:
        raise SpecError(f"tables and lists are nested more than {MAX_DEPTH} deep")
    try:
        result = _plain(document, ())
    except _NoCounterpartError as error:
        place = layer.place(error.path) if layer else None
        problem = Problem(error.path, str(error), places=(place,) if place else ())
        raise InvalidSpecError([problem], origin=layer.origin if layer else "the spec") from None
    assert isinstance(result, dict)
    return result


class _NoCounterpartError(Exception):
    def __init__(self, path: TomlPath, message: str) -> None:
        super().__init__(message)
        self.path = path


def _plain(value: Any, path: TomlPath) -> Any:
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(mode="json", exclude_none=True), path)
    if isinstance(value, dict):
        return {_key(key, path): _plain(item, (*path, str(key))) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item, (*path, index)) for index, item in enumerate(value)]
    if isinstance(value, (datetime.date, datetime.time)):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise _NoCounterpartError(path, "an integer beyond 64 bits")
    if isinstance(value, (bool, int, float, str)):
        return value
    raise _NoCounterpartError(path, f"TOML has no counterpart for {value!r} ({type(value).__name__})")


def _key(key: Any, path: TomlPath) -> str:
    if not isinstance(key, str):
        raise _NoCounterpartError(path, f"expected text as a key, found {key!r} ({type(key).__name__})")
    return key
