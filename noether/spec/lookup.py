"""Look-up of a key without a spec: every field of the installed configs that it may mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from noether.config.discriminated import Discriminated, base_config
from noether.errors import NoetherError, SpecError
from noether.kernel.names import did_you_mean
from noether.kernel.registry import active_registry
from noether.spec.errors.words import listed, quoted
from noether.spec.fields import alternatives
from noether.spec.read.overrides import ItemId, Part
from noether.spec.tables import with_tables

_UNKNOWN = "unknown-path"


@dataclass(frozen=True)
class Meaning:
    """A field that a key may mean.

    Attributes:
        owner: The kind that has the field; empty if every kind has it.
        name: The name of the field.
        field: The field, or the type of an entry of one.
    """

    owner: str
    name: str
    field: Any


def meanings(parts: Sequence[Part]) -> list[Meaning]:
    """Return every field of the installed configs that a key may mean; torch is imported only if a kind decides.

    Raises:
        SpecError: if no installed config has the key.
    """
    root, wrong = with_tables(map(str, parts[:1]), ())
    if wrong:
        raise SpecError(wrong[0].message, hint=wrong[0].hint, code=wrong[0].code)
    found = [Meaning("", "", root)]
    walked = ""
    for part in parts:
        below = [after for before in found for after in _below(before, part)]
        if not below:
            raise _unknown(found, part, walked)
        found = below
        walked += f"[{part.id}]" if isinstance(part, ItemId) else f"{'.' if walked else ''}{part}"
    return found


def _below(meaning: Meaning, part: Part) -> Iterator[Meaning]:
    for option in alternatives(meaning.field):
        origin, arguments = get_origin(option), get_args(option)
        if origin in (list, tuple) and (isinstance(part, ItemId) or part.isdecimal()):
            yield from _item(meaning, arguments[0], part)
        elif origin is dict and isinstance(part, str):
            yield Meaning(meaning.owner, part, arguments[1])
        elif isinstance(part, str):
            yield from (found for found in _fields_of(option, meaning.owner, part) if found.name == part)


def _item(meaning: Meaning, annotation: Any, part: Part) -> Iterator[Meaning]:
    """Yield the meanings of an item of a list; an id that is the name of a kind selects it."""
    for option in alternatives(annotation):
        if isinstance(option, Discriminated) and isinstance(part, ItemId):
            config = _class_of_kind(option, part.id)
            yield Meaning(part.id if config else meaning.owner, meaning.name, config or annotation)
        else:
            yield Meaning(meaning.owner, meaning.name, annotation)


def _fields_of(option: Any, owner: str, wanted: str) -> Iterator[Meaning]:
    """Yield the fields of a class; for a role those of its base, and without `wanted` those of all its kinds."""
    if isinstance(option, type) and issubclass(option, BaseModel):
        yield from (Meaning(owner, name, field) for name, field in option.model_fields.items())
    elif isinstance(option, Discriminated):
        base = base_config(option.role)
        yield from _fields_of(base, owner, wanted)
        if wanted not in base.model_fields:
            for kind in kinds_of(option.role):
                if config := _class_of_kind(option, kind):
                    yield from _fields_of(config, kind, wanted)


def kinds_of(role: str) -> list[str]:
    """Return the registered kinds of a role, in alphabetical order; imports none of them."""
    return sorted({entry.name for entry in active_registry().entries(role)}, key=str.lower)


def _class_of_kind(mark: Discriminated, kind: str) -> type[BaseModel] | None:
    try:
        return mark.config_class(kind)
    except NoetherError:
        return None


def _unknown(found: list[Meaning], part: Part, walked: str) -> SpecError:
    if isinstance(part, ItemId):
        return SpecError(f"{walked} is not a list of components: found the id {quoted(part.id)}", code=_UNKNOWN)
    allowed = _allowed(found, part)
    where = f"{walked} has no key" if walked else "a spec has no key"
    hint = f"it has {listed(allowed)}" if allowed else f"{walked} is a value without keys"
    return SpecError(f"{where} {quoted(part)}.{did_you_mean(part, allowed)}", hint=hint, code=_UNKNOWN)


def _allowed(found: list[Meaning], part: str) -> list[str]:
    names = (
        after.name
        for before in found
        for option in alternatives(before.field)
        for after in _fields_of(option, "", part)
    )
    return list(dict.fromkeys(names))


def field_of(meaning: Meaning) -> FieldInfo:
    """Return the field, or a field made for an entry of a table or list."""
    return meaning.field if isinstance(meaning.field, FieldInfo) else FieldInfo.from_annotation(meaning.field)
