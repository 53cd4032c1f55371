"""The JSON Schema of tables that say only what differs from the file that they extend."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from noether.spec.schema_of_class import Json, ref

_REMOVED: Json = {
    "type": "object",
    "description": "Take the item of this id out of what the file extends.",
    "properties": {"id": {"type": "string"}, "remove": {"const": True}},
    "required": ["id", "remove"],
    "additionalProperties": False,
}


def parts(definitions: Json, roles: Sequence[str]) -> Json:
    """Return the definition `<role>.part` of each role: the options of all of its kinds, none of them required."""
    result: Json = {"removed": _REMOVED}
    for role in roles:
        options: dict[str, list[Any]] = {}
        for name, value in _options(definitions, role):
            known = options.setdefault(name, [])
            bare = _bare(value)
            if bare not in known:
                known.append(bare)
        properties = {name: part_of(_any_of(values), roles) for name, values in options.items()}
        result[f"{role}.part"] = {"type": "object", "properties": properties, "additionalProperties": False}
    return result


def part_of(schema: Any, roles: Iterable[str]) -> Any:
    """Return a schema in which every component may also be a part of one."""
    if isinstance(schema, list):
        return [part_of(item, roles) for item in schema]
    if not isinstance(schema, dict):
        return schema
    adapted = {key: part_of(value, roles) if key != "default" else value for key, value in schema.items()}
    for role in roles:
        if adapted.get("$ref") == ref(role)["$ref"]:
            rest = {key: value for key, value in adapted.items() if key != "$ref"}
            return {**rest, "anyOf": [ref(role), ref(f"{role}.part"), ref("removed")]}
    return adapted


def _options(definitions: Json, role: str) -> Iterator[tuple[str, Any]]:
    """Yield the options of all kinds of a role, `kind` among them."""
    for branch in definitions[role]["oneOf"]:
        if "$ref" in branch:
            yield from definitions[branch["$ref"].removeprefix("#/$defs/")]["properties"].items()


def _bare(schema: Any) -> Any:
    """Return a schema without what differs from kind to kind and means nothing here."""
    return {key: value for key, value in schema.items() if key != "default"} if isinstance(schema, dict) else schema


def _any_of(schemas: list[Any]) -> Any:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
