"""Resolved specs: every default written out, so that running the result again is the same run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import Field, fields, is_dataclass
from functools import cache
from importlib.metadata import version
from typing import Annotated, Any

import tomli_w
from pydantic import BaseModel

from noether.config.discriminated import Discriminated
from noether.config.parameters import survives
from noether.config.secrets import mask
from noether.spec.describe.fields import components_in, configs_in, item_at
from noether.spec.errors.words import toml_path
from noether.spec.locate import TomlPath
from noether.spec.model import RunSpec
from noether.spec.read.document import plain
from noether.spec.read.reference import KeptReference


def resolved_toml(spec: RunSpec) -> str:
    """Return the TOML text of a loaded spec: all defaults, canonical kinds and ids, and their origins.

    Raises:
        SpecError: if a config holds a value that TOML cannot express.
    """
    return tomli_w.dumps({**resolved_tables(spec), "resolved": _origins(spec)})


def resolved_tables(spec: RunSpec) -> dict[str, Any]:
    """Return the tables of a loaded spec with every default, as plain values, with references to the environment.

    Raises:
        SpecError: if a config holds a value that TOML cannot express.
    """
    tables = plain(dumped(spec))
    for path, kept in spec._references.items():
        _put_back(tables, path, kept)
    if any(kept.reference.is_secret for kept in spec._references.values()):
        tables = _masked(tables)  # a plugin may have carried a secret to another place
    return tables


def dumped(spec: RunSpec) -> dict[str, Any]:
    """Return the fields of a spec as JSON has them, without None and without defaults that a spec cannot hold."""
    tables = spec.model_dump(mode="json", exclude_none=True, exclude={"resolved": True, **_left_to_classes(spec)})
    return {name: _without_nan(table) for name, table in tables.items()}


def _without_nan(value: Any) -> Any:
    """Leave out the keys of NaN: a spec holds none, so it is a default of a class within an option."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items() if not _is_nan(item)}
    return [_without_nan(item) for item in value] if isinstance(value, list) else value


def _is_nan(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_is_nan, value))
    return isinstance(value, float) and math.isnan(value)


def _left_to_classes(spec: RunSpec) -> dict[str, Any]:
    """Return the fields to leave out of a dump.

    They are defaults that would not be read again as they are, such as NaN, and what dataclasses compute themselves.
    """
    excluded: dict[Any, Any] = {}
    for path, config in configs_in(spec):
        for name in type(config).model_fields:
            is_lost = name not in config.model_fields_set and _is_lost(type(config), name)
            for below in [()] if is_lost else _given_by_classes(getattr(config, name)):
                table = excluded
                for part in (*path, name, *below)[:-1]:
                    table = table.setdefault(part, {})
                table[(*path, name, *below)[-1]] = True
    return excluded


def _given_by_classes(value: Any) -> Iterator[TomlPath]:
    """Yield the paths of fields that the dataclasses in a value give themselves: computed ones, and lost defaults."""
    parts: Iterable[tuple[Any, Any]] = ()
    if is_dataclass(value) and not isinstance(value, type):
        own = [field.name for field in fields(value) if _gives_itself(value, field)]
        yield from ((name,) for name in own)
        parts = ((field.name, getattr(value, field.name)) for field in fields(value) if field.name not in own)
    elif isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    for key, item in parts:
        yield from ((key, *path) for path in _given_by_classes(item))


def _gives_itself(holder: Any, field: Field[Any]) -> bool:
    annotation = Any if isinstance(field.type, str) else field.type
    is_default = getattr(holder, field.name) is field.default
    return not field.init or (is_default and field.default is not None and not survives(annotation, field.default))


@cache
def _is_lost(config_class: type[BaseModel], name: str) -> bool:
    field = config_class.model_fields[name]
    if field.default_factory is not None or any(isinstance(mark, Discriminated) for mark in field.metadata):
        return False
    return field.default is not None and not survives(Annotated[field.annotation, field], field.default)


def _put_back(tables: dict[str, Any], path: TomlPath, kept: KeptReference) -> None:
    """Write a reference in place of its value, unless a plugin has changed the value."""
    holder: Any = tables
    for part in path[:-1]:
        holder = item_at(holder, part)
    if item_at(holder, path[-1]) == kept.value and kept.value is not None:
        holder[path[-1]] = dict(kept.reference.table)


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _masked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return mask(value) if isinstance(value, str) else value


def _origins(spec: RunSpec) -> dict[str, Any]:
    kinds = {toml_path(path): f"{component.kind} from {component.origin}" for path, component in components_in(spec)}
    return {"noether": version("noether-train"), "kinds": kinds}
