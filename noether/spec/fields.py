"""Fields and configs of a document: the pydantic class at each path, the configs in a spec, the ids of items."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from noether.config.base import _RegistryBase, component_of, names_component
from noether.config.discriminated import Discriminated
from noether.errors import PluginError
from noether.kernel.entries import Component
from noether.kernel.names import free_name
from noether.kernel.registry import active_registry
from noether.spec.locate import TomlPath


def configs_in(value: Any, path: TomlPath = ()) -> Iterator[tuple[TomlPath, _RegistryBase]]:
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


def paths_unset(value: Any, path: TomlPath = ()) -> Iterator[TomlPath]:
    """Yield the fields below `value` that hold None and need a value; a file would have their default there."""
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            item = getattr(value, name, None)
            if item is None and not {NoneType, Any}.intersection(alternatives(field)):
                yield *path, name
            yield from paths_unset(item, (*path, name))
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths_unset(item, (*path, key))


def components_in(value: Any) -> Iterator[tuple[TomlPath, Component]]:
    """Yield every component below `value` that has a kind, and the tables of plugins in a spec, with their paths."""
    yield from (((name,), table) for name, table in getattr(value, "plugin_tables", {}).items())
    for path, config in configs_in(value):
        if names_component(config):
            yield path, component_of(config)


def alternatives(annotation: Any) -> Iterator[Any]:
    """Yield the alternatives of a field: classes, generic aliases, or its `Discriminated` mark."""
    metadata: Sequence[Any] = ()
    if isinstance(annotation, FieldInfo):
        annotation, metadata = annotation.annotation, annotation.metadata
    elif get_origin(annotation) is Annotated:
        annotation, metadata = annotation.__origin__, annotation.__metadata__
    marks = [mark for mark in metadata if isinstance(mark, Discriminated)]
    if marks:
        yield marks[0]
    elif get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from alternatives(member)
    elif get_origin(annotation) is Annotated:
        yield from alternatives(annotation)
    else:
        yield annotation


def class_of(annotation: Any, value: Any) -> type[BaseModel] | None:
    """Return the class that validates `value` in a field, or None if the field holds no table with known keys."""
    for option in alternatives(annotation):
        if isinstance(option, Discriminated):
            kind = value.get("kind") if isinstance(value, dict) else value
            try:
                return option.config_class(kind) if isinstance(kind, str) else None
            except PluginError:
                return None
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


def class_at(root: type[BaseModel], document: Any, path: Sequence[str | int]) -> type[BaseModel] | None:
    """Return the class that validates the table at `path`, or None."""
    annotation = annotation_at(root, document, path)
    value = document
    for part in path:
        value = item_at(value, part)
    return None if annotation is None else class_of(annotation, value)


def annotation_at(root: type[BaseModel], document: Any, path: Sequence[str | int]) -> Any:
    """Return the field or type that validates the value at `path`, or None."""
    annotation: Any = root
    value = document
    for part in path:
        annotation = _below(annotation, value, part)
        if annotation is None:
            return None
        value = item_at(value, part)
    return annotation


def item_at(value: Any, part: str | int) -> Any:
    """Return the value at a key of a table or an index of a list, or None."""
    if isinstance(value, dict):
        return value.get(part) if isinstance(part, str) else None
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        return value[part]
    return None


def is_table(annotation: Any) -> bool:
    """Return True if a class is written as a table: a model, a dataclass or a TypedDict."""
    return is_dataclass(annotation) or hasattr(annotation, "model_fields") or hasattr(annotation, "__total__")


def table_class_of(annotation: Any) -> type[BaseModel] | None:
    """Return the class of the items of a field that holds a list of tables without kinds; else None."""
    for option in alternatives(annotation):
        item = get_args(option)[0] if get_origin(option) is list else None
        if isinstance(item, type) and issubclass(item, BaseModel):
            return item
    return None


@cache
def lists_of_role(owner: type[BaseModel], role: str) -> list[str]:
    """Return the fields of a class that hold lists of configs of a role: `callbacks`, `eval_callbacks`."""
    return [
        name
        for name, field in owner.model_fields.items()
        for option in alternatives(field)
        if get_origin(option) is list and _marked_role(get_args(option)[0]) == role
    ]


def _marked_role(annotation: Any) -> str | None:
    return next((mark.role for mark in alternatives(annotation) if isinstance(mark, Discriminated)), None)


def _below(annotation: Any, value: Any, part: str | int) -> Any:
    owner = class_of(annotation, value)
    if owner is not None:
        return owner.model_fields.get(str(part))
    for option in alternatives(annotation):
        origin, arguments = get_origin(option), get_args(option)
        if origin in (list, tuple) and isinstance(part, int):
            return arguments[0]
        if origin is dict and isinstance(part, str):
            return arguments[1]
    return None


ID = re.compile(r"[a-z0-9_][a-z0-9._-]*")
LONGEST_ID = 80
"""Limit of an id, which becomes the name of a file or folder in a checkpoint."""
_LONGEST_MADE = 70  # leaves room for `-2`
_ROLES = {"callbacks": "callback", "transforms": "transform", "trackers": "tracker"}
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def role_of_items(key: str | int) -> str:
    """Return the role of the items below a key: `callbacks` and `eval_callbacks` hold callbacks."""
    return _ROLES.get(str(key).rpartition("_")[2], "callback")


def item_ids(items: Sequence[Any], role: str) -> list[str]:
    """Return the id of each item: its own, else its short kind, then `-2`, `-3` if that is taken."""
    taken = {item["id"] for item in items if isinstance(item, dict) and isinstance(item.get("id"), str)}
    ids = []
    for item in items:
        explicit = item.get("id") if isinstance(item, dict) else None
        if not isinstance(explicit, str):
            explicit = free_name(default_id(item, role), taken)
            taken.add(explicit)
        ids.append(explicit)
    return ids


def default_id(item: Any, role: str) -> str:
    """Return the default id of an item, if that is free: the short name of its kind.

    The spelling of the kind does not matter, and nothing is imported.
    """
    kind = item.get("kind") if isinstance(item, dict) else item
    if not isinstance(kind, str) or not kind:
        return role
    last = re.split(r"[./:]", kind)[-1]
    for spelling in (kind, last):
        try:
            return active_registry().find(role, spelling).name.lower()
        except PluginError:
            continue
    words = _WORD_START.sub("-", last).lower().replace("_", "-")
    name = re.sub(r"[^a-z0-9._-]", "-", words.removesuffix(f"-{role}")).lstrip(".-")
    return name[:_LONGEST_MADE] or role
