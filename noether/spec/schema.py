"""The JSON Schema of every spec that is valid with what is installed, for editors and linters.

A role is a `oneOf` with one branch a kind, each with that kind as a constant: then a linter knows which branch is
meant, and reports a wrong key at its place instead of "fits none of them".
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic.errors import PydanticInvalidForJsonSchema

from noether.config.config_class import config_class_of
from noether.errors import PluginError
from noether.kernel.entries import ROLES, Entry, canonical
from noether.kernel.registry import Registry, use_registry
from noether.spec.model import RunSpec
from noether.spec.schema_of_class import Json, ref, tables_of
from noether.spec.schema_of_parts import part_of, parts

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DOTTED = r"[.:]"
_ENV: Json = {
    "type": "object",
    "description": "A value that is read from an environment variable.",
    "properties": {
        "env": {"type": "string", "description": "Name of the environment variable."},
        "default": {"description": "The value where the variable is not set."},
        "secret": {"type": "boolean", "default": False, "description": "Mask the value in logs and dumps."},
    },
    "required": ["env"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Unreadable:
    """A kind whose options are unknown, since what it names cannot be imported; its branch takes any."""

    role: str
    kind: str
    reason: str


def schema_of(registry: Registry) -> tuple[Json, list[Unreadable]]:
    """Return the schema of specs that name what `registry` knows, and the kinds that it could not look into."""
    unreadable: list[Unreadable] = []
    definitions: Json = {"env": _ENV}
    with use_registry(registry):
        for role in ROLES:
            kinds = [
                _Kind(role, kind, entry) for entry in registry.entries(role) for kind in _spellings(registry, entry)
            ]
            definitions |= _role(role, sorted(kinds, key=lambda kind: kind.name.lower()), registry, unreadable)
    top = tables_of(RunSpec, "spec", definitions)
    top["required"].remove("name")  # the file's name if left out
    definitions |= parts(definitions, tuple(ROLES))
    head = {"$schema": DIALECT, "title": "A run of Noether", "description": top.pop("description", "")}
    return {**head, **_root(top), "$defs": definitions}, unreadable


@dataclass(frozen=True)
class _Kind:
    role: str
    name: str
    entry: Entry


def _spellings(registry: Registry, entry: Entry) -> Iterable[str]:
    """Return the kinds that an editor offers for an entry: a plugin's also with its qualified name."""
    kind = canonical(registry.entries(entry.role), entry)
    return [kind] if entry.is_built_in else dict.fromkeys((kind, entry.qualified))


def _role(role: str, kinds: list[_Kind], registry: Registry, unreadable: list[Unreadable]) -> Json:
    """Return the definitions of a role: the choice between its kinds, and each of them."""
    definitions: Json = {}
    branches = []
    bare = []
    for kind in kinds:
        branch = _branch(kind, registry, definitions, unreadable)
        definitions[f"{role}.{kind.name}"] = branch
        branches.append(ref(f"{role}.{kind.name}"))
        if branch.get("required") == ["kind"]:
            bare.append(kind.name)
    dotted = {
        "type": "object",
        "description": f"{ROLES[role].noun.capitalize()} by the path of its class: package.module.Class.",
        "properties": {"kind": {"type": "string", "pattern": _DOTTED}},
        "required": ["kind"],
        "additionalProperties": True,
    }
    alone = [{"enum": bare}] if bare else []
    word = {"type": "string", "description": "The kind alone.", "anyOf": [*alone, {"pattern": _DOTTED}]}
    return {role: {"oneOf": [*branches, dotted, word]}, **definitions}


def _branch(kind: _Kind, registry: Registry, definitions: Json, unreadable: list[Unreadable]) -> Json:
    constant = {"const": kind.name, "description": f"From {kind.entry.origin}."}
    try:
        component = registry.load(kind.role, kind.name)
        config_class = config_class_of(component.target, kind.role)
        schema = tables_of(config_class, f"{kind.role}.{kind.name}", definitions)
    except (PluginError, PydanticInvalidForJsonSchema) as error:
        unreadable.append(Unreadable(kind.role, kind.name, str(error).partition("\n")[0]))
        open_table = {"type": "object", "properties": {"kind": constant}, "required": ["kind"]}
        return {**open_table, "title": kind.name, "additionalProperties": True}
    properties = {"kind": constant, **{name: value for name, value in schema["properties"].items() if name != "kind"}}
    required = ["kind", *(name for name in schema.get("required", ()) if name != "kind")]
    summary = _summary(component.target, kind.entry)
    return {**schema, "title": kind.name, "description": summary, "properties": properties, "required": required}


def _summary(target: Callable[..., Any], entry: Entry) -> str:
    """Return what a kind of ours or a plugin's does; torch's docstrings begin with signatures."""
    if entry.target.startswith("torch."):
        return entry.target.replace(":", ".")
    return (inspect.getdoc(target) or "").partition("\n\n")[0].replace("\n", " ")


def _root(top: Json) -> Json:
    """Return the schema of a file: one that extends others may leave out what they hold, any other may not.

    A `oneOf` would do, but a linter then guesses which of the two is meant and takes a missing key for `extends`. The
    `additionalProperties` here forbid nothing; they keep linters that are strict about them from warning.
    """
    extends = {"required": ["extends"], "additionalProperties": True}
    return {
        "type": "object",
        "additionalProperties": True,
        "if": extends,
        "then": _extending(top),
        "else": _alone(top),
    }


def _alone(top: Json) -> Json:
    """Return the schema of a file that is a whole spec."""
    return {**top, "properties": {key: value for key, value in top["properties"].items() if key != "extends"}}


def _extending(top: Json) -> Json:
    """Return the schema of a file that extends others: what they hold may be left out, `kind` too."""
    properties = {key: part_of(value, tuple(ROLES)) for key, value in top["properties"].items()}
    return {**top, "properties": properties, "required": ["extends"]}
