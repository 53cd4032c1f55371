"""Find every config in a validated spec, with its place, and what each is for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from noether.config.base import _RegistryBase, component_of, names_component
from noether.kernel.entries import Component

Path = tuple[str | int, ...]


def configs_in(value: Any, path: Path = ()) -> Iterator[tuple[Path, _RegistryBase]]:
    """Yield every config below `value` with its path, parents before children."""
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


def components_in(value: Any) -> Iterator[tuple[Path, Component]]:
    """Yield every component that is named below `value` with its path; a part without a kind is its owner's matter."""
    for path, config in configs_in(value):
        if names_component(config):
            yield path, component_of(config)
