"""Bring what a document holds, from a file or from Python, to what JSON can express."""

from __future__ import annotations

import datetime
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel

from noether.errors import SpecError
from noether.spec.limits import MAX_DEPTH, depth_of


def plain(document: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of tables, lists, text, numbers and booleans only.

    Dates become ISO text, paths text, tuples lists and configs tables. A key with None is left out, as TOML
    has no null.

    Raises:
        SpecError: A value has no counterpart in TOML, or the nesting is too deep (or endless).
    """
    if depth_of(document) > MAX_DEPTH:
        raise SpecError(f"tables and lists are nested more than {MAX_DEPTH} deep")
    result = _plain(document, "the spec")
    assert isinstance(result, dict)
    return result


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(mode="json", exclude_none=True), where)
    if isinstance(value, dict):
        return {_key(key, where): _plain(item, str(key)) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item, where) for item in value]
    if isinstance(value, (datetime.date, datetime.time)):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise SpecError(f"{where}: an integer beyond 64 bits")
    if isinstance(value, (bool, int, float, str)):
        return value
    raise SpecError(f"{where}: TOML has no counterpart for {value!r} ({type(value).__name__})")


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise SpecError(f"{where}: expected text as a key, found {key!r} ({type(key).__name__})")
    return key
