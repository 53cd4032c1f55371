"""Explanation of a key: its meaning, type and bounds, and in a spec its value and sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from noether.config.discriminated import Discriminated
from noether.errors import SpecError
from noether.kernel.entries import ROLES
from noether.kernel.names import did_you_mean
from noether.kernel.registry import use_registry
from noether.spec.errors.words import BOUNDS, TYPES, listed, quoted, toml_literal, toml_path
from noether.spec.fields import alternatives, class_at, is_table, item_ids, role_of_items
from noether.spec.load import LoadedSpec
from noether.spec.locate import TomlPath
from noether.spec.lookup import Meaning, kinds_of, meanings
from noether.spec.model import resolved_tables
from noether.spec.read.overrides import ItemId, Part, parse_path

UNSET = None
_UNKNOWN = "unknown-path"
_TYPES = {**TYPES, Any: "any", NoneType: "nothing"}
_UNITS = {
    "epochs": "epochs",
    "epoch": "epochs",
    "updates": "updates",
    "samples": "samples",
    "percent": "percent",
    "batch_size": "samples",
    "fraction": "of 1",
    "s": "seconds",
}
"""Units by the end of a field's name."""


def _as_noun(role: str) -> str:
    return ROLES[role].noun


def type_of(
    field: FieldInfo, *, literal: Callable[[str], str] = str, component: Callable[[str], str] = _as_noun
) -> str:
    """Return the type of a field: `integer`, `list of string`, `"fp32" or "bf16"`.

    Args:
        field: The field.
        literal: Function that writes a constant.
        component: Function that writes the name of a role.
    """

    def words(annotation: Any, metadata: Any = ()) -> str:
        roles = [mark.role for mark in metadata if isinstance(mark, Discriminated)]
        if roles:
            return component(roles[0])
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            return words(annotation.__origin__, annotation.__metadata__)
        if origin in (Union, UnionType):
            return " or ".join(words(option) for option in arguments if option is not NoneType)
        if origin is Literal:
            return " or ".join(literal(toml_literal(value)) for value in arguments)
        if origin in (list, set, frozenset) or arguments[1:] == (Ellipsis,):
            return f"{TYPES[list]} of {words(arguments[0])}"
        if origin is tuple:
            return f"{TYPES[list]} of {len(arguments)} {words(arguments[0])}"
        if origin is dict:
            return f"{TYPES[dict]} of {words(arguments[1])}"
        return _plain(annotation, words)

    return words(field.annotation, field.metadata)


def _plain(annotation: Any, words: Callable[[Any], str]) -> str:
    if isinstance(annotation, TypeVar):
        return words(annotation.__bound__)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(toml_literal(member.value) for member in annotation)
    if is_table(annotation):
        return TYPES[dict]
    return _TYPES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def bounds_of(field: FieldInfo) -> str:
    """Return the limits of a number, `at least 1 and below 2`; empty without any."""
    limits = [
        f"{words} {value:g}"
        for mark in field.metadata
        for name, words in BOUNDS.items()
        if (value := getattr(mark, name, None)) is not None
    ]
    return " and ".join(limits)


def default_of(field: FieldInfo) -> str:
    """Return the default as TOML, `required`, or `unset`."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "unset"
    if isinstance(value, BaseModel):
        kind = getattr(value, "kind", "")
        return toml_literal(kind) if kind else "{}"
    return toml_literal(value)


def unit_of(name: str, field: FieldInfo) -> str | None:
    """Return the unit of a number, from the field or else from the end of its name; None if unknown."""
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "unit" in extra:
        return str(extra["unit"])
    if not _holds_number(field.annotation):
        return None
    return next((unit for end, unit in _UNITS.items() if name == end or name.endswith(f"_{end}")), None)


def _holds_number(annotation: Any) -> bool:
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return any(option in (int, float) for option in options)


def example_of(field: FieldInfo) -> str | None:
    """Return an example as TOML: the field's own, else one of its type, else None.

    The example of a flag or a choice differs from the default, since a spec can leave the default out.
    """
    if field.examples:
        return toml_literal(field.examples[0])
    default = field.get_default(call_default_factory=True) if not field.is_required() else None
    if isinstance(default, bool):
        return toml_literal(not default)
    choices = [value for value in _choices(field.annotation) if value != default]
    if choices:
        return toml_literal(choices[0])
    if default is None or isinstance(default, BaseModel) or default in ([], {}):
        return "true" if bool in _options(field.annotation) else None
    return toml_literal(default)


def _choices(annotation: Any) -> list[Any]:
    return [value for option in _options(annotation) if get_origin(option) is Literal for value in get_args(option)]


def _options(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


@dataclass(frozen=True)
class Said:
    """The value of a key in one layer.

    Attributes:
        value: The value.
        where: Its place: `specs/a.toml:27:14`, `command line, argument 2`.
    """

    value: Any
    where: str


@dataclass(frozen=True)
class Explanation:
    """A key of one spec.

    Attributes:
        key: The key as the user typed it.
        value: Its value; `UNSET` if it has none.
        said: Its values in the layers, the newest first, without the default.
        meaning: Its field, or the field that holds it.
        holder: The key of that field if this is an entry of its table or list, else empty.
    """

    key: str
    value: Any
    said: tuple[Said, ...]
    meaning: Meaning
    holder: str = ""


def documented(key: str) -> list[Meaning]:
    """Return every field that a key may mean in any spec.

    Raises:
        SpecError: if no installed config has the key.
    """
    return meanings(parse_path(key))


def explained(key: str, loaded: LoadedSpec) -> Explanation:
    """Explain a key of a spec.

    Raises:
        SpecError: if the spec cannot have the key.
    """
    tables = resolved_tables(loaded.spec)
    with use_registry(loaded.registry):
        root = type(loaded.spec)
        path = _concrete(parse_path(key), tables, root)
        said = tuple(_said(loaded, path))
        meaning, depth = _meaning(path, tables, root)
        holder = toml_path(path[:depth]) if depth < len(path) else ""
        return Explanation(key, _value_at(tables, path), said, meaning, holder)


def _said(loaded: LoadedSpec, path: TomlPath) -> Iterator[Said]:
    for source in loaded.origins.of(path):
        place = source.place
        where = f"{place.origin}:{place.line}:{place.column}" if place and place.is_file else source.origin
        yield Said(source.value, where)


def _concrete(parts: Sequence[Part], tables: Any, root: type[BaseModel]) -> TomlPath:
    """Return the path with indices in place of ids.

    Raises:
        SpecError: if the spec cannot have a part of the path.
    """
    path: list[str | int] = []
    for part in parts:
        value = _value_at(tables, tuple(path))
        if isinstance(part, ItemId):
            path.append(_index_of(part, value, path))
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            path.append(int(part))
        elif (isinstance(value, dict) and part in value) or part in (keys := _keys_at(path, tables, value, root)):
            path.append(part)
        else:
            raise _unknown(part, path, keys)
    return tuple(path)


def _index_of(part: ItemId, value: Any, path: Sequence[str | int]) -> int:
    if not isinstance(value, list):
        raise SpecError(f"{toml_path(path)} is not a list: found the id {quoted(part.id)}", code=_UNKNOWN)
    ids = item_ids(value, role_of_items(path[-1]))
    if part.id not in ids:
        known = f"it has {listed(ids)}" if ids else "it is empty"
        raise SpecError(
            f"{toml_path(path)} has no item {quoted(part.id)}.{did_you_mean(part.id, ids)}", hint=known, code=_UNKNOWN
        )
    return ids.index(part.id)


def _keys_at(path: Sequence[str | int], tables: Any, value: Any, root: type[BaseModel]) -> list[str]:
    owner = class_at(root, tables, path)
    known = list(owner.model_fields) if owner else []
    return known or (list(value) if isinstance(value, dict) else [])


def _unknown(part: str, path: Sequence[str | int], keys: list[str]) -> SpecError:
    where = f"{toml_path(path)} has no key" if path else "a spec has no key"
    hint = f"it has {listed(keys)}" if keys else f"{toml_path(path)} is a value without keys"
    return SpecError(f"{where} {quoted(part)}.{did_you_mean(part, keys)}", hint=hint, code=_UNKNOWN)


def _meaning(path: TomlPath, tables: Any, root: type[BaseModel]) -> tuple[Meaning, int]:
    """Return the field at a path, or the field that holds this entry of a table or list, and its depth."""
    for end in range(len(path), 0, -1):
        owner, name = class_at(root, tables, path[: end - 1]), str(path[end - 1])
        if owner is not None and name in owner.model_fields:
            return Meaning(_owner(path[: end - 1], tables), name, owner.model_fields[name]), end
    raise AssertionError(f"{path} begins with a key of {root.__name__}")


def _owner(path: TomlPath, tables: Any) -> str:
    value = _value_at(tables, path)
    return str(value["kind"]) if isinstance(value, dict) and "kind" in value else ""


def _value_at(tables: Any, path: TomlPath) -> Any:
    value = tables
    for part in path:
        if isinstance(value, dict):
            value = value.get(part, UNSET)
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part]
        else:
            return UNSET
    return value


def keys_of(meaning: Meaning) -> list[str]:
    """Return the keys that the table of a field has for every kind; none for a plain value."""
    for option in alternatives(meaning.field):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return list(option.model_fields)
    return []


def allowed_kinds(meaning: Meaning) -> list[str]:
    """Return the kinds that a field or its items take; none if it holds no component."""
    return next((kinds_of(role) for role in roles_of(meaning.field)), [])


def roles_of(annotation: Any) -> Iterator[str]:
    """Yield the roles of the components that a field holds, itself or in a list or table."""
    for option in alternatives(annotation):
        if isinstance(option, Discriminated):
            yield option.role
        else:
            for argument in getattr(option, "__args__", ()):
                yield from roles_of(argument)
