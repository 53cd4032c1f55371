"""What a field of a config is, in the words of a TOML file: type, default, unit, example, bounds."""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from noether.config.discriminated import Discriminated
from noether.kernel.entries import ROLES
from noether.spec.literal import toml_literal

_WORDS = {int: "integer", float: "number", str: "string", bool: "boolean", Any: "any", NoneType: "nothing"}
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
"""What the end of a field's name says of its unit."""
_BOUNDS = {"ge": "at least", "gt": "greater than", "le": "at most", "lt": "below"}


def _as_noun(role: str) -> str:
    return ROLES[role].noun


def type_of(
    field: FieldInfo, *, literal: Callable[[str], str] = str, component: Callable[[str], str] = _as_noun
) -> str:
    """Return the type of a field: `integer`, `list of string`, `"fp32" or "bf16"`.

    Args:
        field: The field.
        literal: How to write a constant.
        component: How to write what a `kind` chooses, by its role.
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
        if origin is list:
            return f"list of {words(arguments[0])}"
        if origin is tuple:
            return f"list of {len(arguments)} {words(arguments[0])}"
        if origin is dict:
            return f"table of {words(arguments[1])}"
        return _plain(annotation, words)

    return words(field.annotation, field.metadata)


def _plain(annotation: Any, words: Callable[[Any], str]) -> str:
    if isinstance(annotation, TypeVar):
        return words(annotation.__bound__)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    return _WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def bounds_of(field: FieldInfo) -> str:
    """Return the limits of a number, `at least 1 and below 2`, or nothing."""
    limits = [
        f"{words} {value:g}"
        for mark in field.metadata
        for name, words in _BOUNDS.items()
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
    """Return the unit of a number: what the field says, else what the end of its name says, else None."""
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
    """Return a value worth showing, as TOML: the field's own example, else one that its type suggests, else None.

    What a flag or a choice suggests is what it is not by default, since that is what somebody would write.
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
