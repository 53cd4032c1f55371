"""The JSON Schema of every spec that is valid with what is installed, for editors and linters.

A role is a `oneOf` with one branch per kind, each with its kind as a constant: a linter then knows the branch, and
reports a wrong key at its place instead of "fits none of them".
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaWarningKind

from noether.config.discriminated import config_class_of
from noether.errors import PluginError
from noether.kernel.entries import ROLES, Entry, canonical
from noether.kernel.registry import Registry, use_registry
from noether.spec.tables import all_installed

Json = dict[str, Any]
_ANNOTATIONS = ("description", "default", "examples", "unit")
_SCALARS = {"string", "integer", "number", "boolean"}


def ref(name: str) -> Json:
    """Return a reference to a definition."""
    return {"$ref": f"#/$defs/{name}"}


def tables_of(config_class: type[BaseModel], name: str, definitions: Json) -> Json:
    """Return the schema of a class's table; classes of nested tables are added to `definitions` below `name`.

    Raises:
        PydanticInvalidForJsonSchema: If a field has a type that JSON Schema cannot express.
    """
    schema = config_class.model_json_schema(
        ref_template=f"#/$defs/{name}:{{model}}", schema_generator=_Generator, mode="validation"
    )
    for nested, below in schema.pop("$defs", {}).items():
        definitions[f"{name}:{nested}"] = _toml(below)
    adapted: Json = _toml(schema)
    adapted.pop("title", None)
    adapted.setdefault("properties", {})
    adapted.setdefault("required", [])
    return adapted


class _Generator(GenerateJsonSchema):
    """Generator without titles, which would repeat every key, and without warnings about defaults."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ignored_warning_kinds: set[JsonSchemaWarningKind] = {"skipped-choice", "non-serializable-default"}

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _toml(schema: Any) -> Any:
    """Return a schema of pydantic, adapted to TOML."""
    if not isinstance(schema, dict):
        return schema
    if "x-noether-role" in schema:
        return {**_annotations(schema), **ref(schema["x-noether-role"])}
    adapted = {key: value for key, value in schema.items() if key != "default" or _is_plain(value)}
    if "properties" in adapted:
        adapted["properties"] = {key: _value(below) for key, below in adapted["properties"].items()}
    for key in ("items", "additionalProperties"):
        if key in adapted:
            adapted[key] = _value(adapted[key])
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        if key in adapted:
            adapted[key] = [_toml(option) for option in adapted[key] if option != {"type": "null"}]
    return _without_single_choice(adapted)


def _without_single_choice(schema: Json) -> Json:
    options = schema.get("anyOf", ())
    if len(options) != 1:
        return schema
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    return {**options[0], **rest}


def _value(schema: Any) -> Any:
    """Return the schema of a value; a scalar, or a list of them, may also be a reference to the environment."""
    adapted = _toml(schema)
    if not isinstance(adapted, dict):
        return adapted
    options = adapted.get("anyOf", [adapted])
    if "const" in adapted or not any(_is_plain_value(option) for option in options):
        return adapted
    bare = [{key: value for key, value in option.items() if key not in _ANNOTATIONS} for option in options]
    return {**_annotations(adapted), "anyOf": [*bare, ref("env")]}


def _is_plain_value(schema: Json) -> bool:
    if schema.get("type") == "array":
        return isinstance(schema.get("items"), dict) and "$ref" not in schema["items"]
    return schema.get("type") in _SCALARS or "enum" in schema


def _annotations(schema: Json) -> Json:
    return {key: schema[key] for key in _ANNOTATIONS if key in schema and _is_plain(schema[key])}


def _is_plain(value: Any) -> bool:
    """Return True if TOML and JSON can express a default: no null, no infinity."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


_REMOVED: Json = {
    "type": "object",
    "description": "Remove the item with this id of the extended file.",
    "properties": {"id": {"type": "string"}, "remove": {"const": True}},
    "required": ["id", "remove"],
    "additionalProperties": False,
}


def parts(definitions: Json, roles: Sequence[str]) -> Json:
    """Return the definition `<role>.part` of each role: any of its kinds with no option required, or no kind at all.

    At most one branch fits a table, so an editor offers the options of its kind while required ones are still missing.
    """
    result: Json = {"removed": _REMOVED}
    for role in roles:
        branches: list[Json] = []
        kinds: list[Json] = []
        for branch in definitions[role]["oneOf"]:
            if "$ref" not in branch:
                branches.append(branch)
                continue
            kind = definitions[branch["$ref"].removeprefix("#/$defs/")]
            kinds.append(kind["properties"])
            name = f"{role}.part.{kind['title']}"
            result[name] = part_of(kind, roles) | {"required": ["kind"]}
            branches.append(ref(name))
        properties = part_of(_options(kinds), roles)
        no_kind = {"type": "object", "properties": properties, "additionalProperties": False}
        result[f"{role}.part"] = {"oneOf": [*branches, no_kind | {"not": {"required": ["kind"]}}, ref("removed")]}
    return result


def _options(kinds: Iterable[Json]) -> Json:
    """Return the options of several kinds, `kind` among them, each with the values that it has in any of them."""
    options: dict[str, list[Any]] = {}
    for key, value in (option for properties in kinds for option in properties.items()):
        known = options.setdefault(key, [])
        if (bare := _bare(value)) not in known:
            known.append(bare)
    return {key: _any_of(values) for key, values in options.items()}


def part_of(schema: Any, roles: Iterable[str]) -> Any:
    """Return a schema in which every component may also be a part of one."""
    if isinstance(schema, list):
        return [part_of(item, roles) for item in schema]
    if not isinstance(schema, dict):
        return schema
    adapted = {key: part_of(value, roles) if key != "default" else value for key, value in schema.items()}
    for role in roles:
        if adapted.get("$ref") == ref(role)["$ref"]:
            return adapted | ref(f"{role}.part")
    return adapted


def _bare(schema: Any) -> Any:
    """Return a schema without its default, which differs from kind to kind."""
    return {key: value for key, value in schema.items() if key != "default"} if isinstance(schema, dict) else schema


def _any_of(schemas: list[Any]) -> Any:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DOTTED = r"[.:]"
_ENV: Json = {
    "type": "object",
    "description": "A value that is read from an environment variable.",
    "properties": {
        "env": {"type": "string", "description": "Name of the environment variable."},
        "default": {"description": "The value if the variable is not set."},
        "secret": {"type": "boolean", "default": False, "description": "Mask the value in logs and dumps."},
    },
    "required": ["env"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Unreadable:
    """A kind whose options are unknown, since it cannot be imported; its branch allows any."""

    role: str
    kind: str
    reason: str


def schema_of(registry: Registry, use: Sequence[str] = ()) -> tuple[Json, list[Unreadable]]:
    """Return the schema of specs that name what `registry` knows, and the kinds whose options are unknown.

    Args:
        registry: Everything that is known.
        use: Run plugins whose tables it has beside those of installed packages.

    Raises:
        PluginError: if one of them is unknown, or cannot be imported.
    """
    unreadable: list[Unreadable] = []
    definitions: Json = {"env": _ENV}
    with use_registry(registry):
        for role in ROLES:
            kinds = [
                _Kind(role, kind, entry) for entry in registry.entries(role) for kind in _spellings(registry, entry)
            ]
            definitions |= _role(role, sorted(kinds, key=lambda kind: kind.name.lower()), registry, unreadable)
        spec_class, reasons = all_installed(use)
        unreadable += [Unreadable("table", name, reason) for name, reason in reasons.items()]
    top = tables_of(spec_class, "spec", definitions)
    top["properties"] |= {name: {"type": "object"} for name in reasons.keys() - top["properties"]}
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
        summary = _summary(component.target, kind.entry)
        config_class = config_class_of(component.target, kind.role)
        schema = tables_of(config_class, f"{kind.role}.{kind.name}", definitions)
    except (PluginError, PydanticInvalidForJsonSchema) as error:
        unreadable.append(Unreadable(kind.role, kind.name, str(error).partition("\n")[0]))
        open_table = {"type": "object", "properties": {"kind": constant}, "required": ["kind"]}
        return {**open_table, "title": kind.name, "additionalProperties": True}
    if summary:
        constant["description"] = f"{summary.rstrip('.')}. {constant['description']}"
    properties = {"kind": constant, **{name: value for name, value in schema["properties"].items() if name != "kind"}}
    required = ["kind", *(name for name in schema.get("required", ()) if name != "kind")]
    return {**schema, "title": kind.name, "description": summary, "properties": properties, "required": required}


def _summary(target: Callable[..., Any], entry: Entry) -> str:
    """Return the first paragraph of a docstring; for torch, whose docstrings begin with signatures, the dotted name."""
    if entry.target.startswith("torch."):
        return entry.target.replace(":", ".")
    return (inspect.getdoc(target) or "").partition("\n\n")[0].replace("\n", " ")


def _root(top: Json) -> Json:
    """Return the schema of a file: a file that extends others may leave out required keys, any other may not.

    With a `oneOf` in place of the `if`, a linter would guess the branch and report a missing key as a missing
    `extends`. The `additionalProperties` here forbid nothing; they keep strict linters from warning. The `properties`
    demand no more than both branches do: editors complete from them, as some do not look into an `if`.
    """
    extends = {"required": ["extends"], "additionalProperties": True}
    return {
        "type": "object",
        "properties": _extending(top)["properties"],
        "additionalProperties": True,
        "if": extends,
        "then": _extending(top),
        "else": _alone(top),
    }


def _alone(top: Json) -> Json:
    """Return the schema of a file without `extends`."""
    return {**top, "properties": {key: value for key, value in top["properties"].items() if key != "extends"}}


def _extending(top: Json) -> Json:
    """Return the schema of a file with `extends`: required keys may be left out, `kind` too."""
    properties = {key: part_of(value, tuple(ROLES)) for key, value in top["properties"].items()}
    return {**top, "properties": properties, "required": ["extends"]}
