"""The JSON Schema of one config class, in the form that a TOML file needs: no null, env references, roles by `$ref`."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaWarningKind

Json = dict[str, Any]
_ANNOTATIONS = ("description", "default", "examples", "unit")
_SCALARS = {"string", "integer", "number", "boolean"}


def ref(name: str) -> Json:
    """Return a reference to a definition."""
    return {"$ref": f"#/$defs/{name}"}


def tables_of(config_class: type[BaseModel], name: str, definitions: Json) -> Json:
    """Return the schema of a class's table; classes of nested tables are added to `definitions` below `name`.

    Raises:
        PydanticInvalidForJsonSchema: A field has a type that JSON Schema cannot express.
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
    """Leaves out titles, which would repeat every key; a default that JSON cannot express is no reason to warn."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ignored_warning_kinds: set[JsonSchemaWarningKind] = {"skipped-choice", "non-serializable-default"}

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _toml(schema: Any) -> Any:
    """Return a schema of pydantic's for TOML."""
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
    """Tell whether a default can stand in TOML and JSON alike: no null, no infinity."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))
