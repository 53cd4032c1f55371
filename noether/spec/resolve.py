"""Resolved specs: every default written out, so that running the result again is the same run."""

from __future__ import annotations

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
    return spec.model_dump(mode="json", exclude_none=True, exclude={"resolved": True, **_left_to_classes(spec)})


def _left_to_classes(spec: RunSpec) -> dict[str, Any]:
    """Return the fields to leave out of a dump: defaults that would not be read again as they are, such as NaN."""
    excluded: dict[Any, Any] = {}
    for path, config in configs_in(spec):
        for name in type(config).model_fields:
            if name not in config.model_fields_set and _is_lost(type(config), name):
                table = excluded
                for part in path:
                    table = table.setdefault(part, {})
                table[name] = True
    return excluded


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
