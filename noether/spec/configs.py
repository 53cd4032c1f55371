"""Find every component config in a validated spec, with its place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from noether.core.schemas.registry_base import _RegistryBase

Path = tuple[str | int, ...]


def configs_in(value: Any, path: Path = ()) -> Iterator[tuple[Path, _RegistryBase]]:
    """Yield the path and config of every component below `value`, parents before children."""
    if isinstance(value, _RegistryBase):
        yield path, value
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from configs_in(getattr(value, name), (*path, name))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from configs_in(item, (*path, key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from configs_in(item, (*path, index))
