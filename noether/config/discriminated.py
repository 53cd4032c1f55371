"""`Discriminated`: the annotation of a field that holds the config of whatever its `kind` names.

A static union of configs cannot know what is installed, and it puts its tag into the path of every error.
Here the class is looked up while validating, so that any plugin fits and an error's path is the path in the
TOML file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pydantic import GetJsonSchemaHandler, ValidationError, ValidationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, InitErrorDetails, PydanticCustomError, core_schema

from noether.config.base import REFUSED, _RegistryBase
from noether.config.config_class import base_config, config_class_of
from noether.errors import PluginError
from noether.kernel.entries import ROLES, Component
from noether.kernel.registry import active_registry
from noether.kernel.trust import calling_package

_OWN_ERRORS = {REFUSED, "unknown_kind", "component_type"}


class Discriminated:
    """Marks a field as the config of a role: `Annotated[Any, Discriminated("callback")]`.

    The field accepts a config, a table with a `kind`, or the bare kind (`loss_fn = "l1"`). A table is
    validated as its surroundings are: strictly out of JSON (where specs come from), as pydantic usually does
    in Python. Python code may also pass a class or function in place of a kind, and name its own package.

    Args:
        base: The role's name, or a config class of the role that the configs have to derive from.
    """

    def __init__(self, base: type[_RegistryBase] | str) -> None:
        self.role = base if isinstance(base, str) else base.role
        self.base: type[_RegistryBase] = _RegistryBase if isinstance(base, str) else base

    def __repr__(self) -> str:
        return f"Discriminated({self.role!r})"

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": ["object", "string"], "x-noether-role": self.role}

    def config_class(self, kind: str) -> type[_RegistryBase]:
        """Return the class that validates a table of this `kind`.

        Raises:
            PluginError: if the kind names nothing of this role, or its config does not fit this field.
        """
        return self._resolve(kind)[1]

    def _resolve(self, kind: Any, author: str | None = None) -> tuple[Component, type[_RegistryBase]]:
        registry = active_registry()
        is_name = isinstance(kind, str)
        component = registry.load(self.role, kind, author=author) if is_name else registry.component(self.role, kind)
        config_class = config_class_of(component.target, self.role)
        if not issubclass(config_class, self.base):
            raise PluginError(
                f"'{kind}' does not fit here: found the config {config_class.__name__}, expected a subclass of "
                f"{self.base.__name__}",
                code="wrong-role",
            )
        return component, config_class

    def _validate(self, value: Any, info: ValidationInfo) -> _RegistryBase:
        if isinstance(value, _RegistryBase):
            return self._accept(value)
        in_python = info.mode == "python"
        is_kind = isinstance(value, str) or (in_python and callable(value))
        table = {"kind": value} if is_kind else value
        if not isinstance(table, dict):
            raise PydanticCustomError("component_type", "expected a table with a kind, or the kind alone")
        kind = table.get("kind")
        where = () if is_kind else ("kind",)
        if kind is None:
            raise _error_at(where, "missing", value)
        if not isinstance(kind, str) and not (in_python and callable(kind)):
            raise _error_at(where, "string_type", kind)
        try:
            component, config_class = self._resolve(kind, calling_package() if in_python else None)
        except PluginError as error:
            details = [InitErrorDetails(type=_unknown_kind(error), loc=where, input=kind)]
            details += self._problems_of_any_kind(table, info)
            raise ValidationError.from_exception_data("component", details) from error
        config = _parse(config_class, {**table, "kind": component.kind}, info)
        config._component = component
        return config

    def _problems_of_any_kind(self, table: dict[str, Any], info: ValidationInfo) -> list[InitErrorDetails]:
        """Return the errors in the fields that every kind has, so that a wrong kind does not hide them."""
        base = base_config(self.role)
        known = {name: item for name, item in table.items() if name in base.model_fields and name != "kind"}
        try:
            _parse(base, known, info)
        except ValidationError as error:
            return [_as_input(details) for details in error.errors(include_url=False)]
        return []

    def _accept(self, config: _RegistryBase) -> _RegistryBase:
        if config.role == self.role and isinstance(config, self.base):
            return config
        raise PydanticCustomError(
            "component_type",
            "wrong config: found {found}, expected the config of {role}",
            {"role": ROLES[self.role].noun, "found": type(config).__name__},
        )


def _parse(config_class: type[_RegistryBase], table: dict[str, Any], info: ValidationInfo) -> _RegistryBase:
    """Validate `table` in the mode that its surroundings are validated in."""
    if info.mode == "json":
        return config_class.model_validate_json(json.dumps(table), strict=True, context=info.context)
    return config_class.model_validate(table, context=info.context)


def _as_input(details: ErrorDetails) -> InitErrorDetails:
    """Return an error that was raised, to raise it again together with others."""
    kind, context = details["type"], details.get("ctx", {})
    if kind not in _OWN_ERRORS:
        return InitErrorDetails(type=kind, loc=details["loc"], input=details["input"], ctx=context)
    template = "{message}" if "message" in context else details["msg"]
    error = PydanticCustomError(kind, template, context)
    return InitErrorDetails(type=error, loc=details["loc"], input=details["input"])


def _unknown_kind(error: PluginError) -> PydanticCustomError:
    return PydanticCustomError(
        "unknown_kind", "{message}", {"message": error.message, "hint": error.hint, "code": error.code}
    )


def _error_at(where: tuple[str, ...], kind_of_error: str | PydanticCustomError, found: Any) -> ValidationError:
    details = InitErrorDetails(type=kind_of_error, loc=where, input=found)
    return ValidationError.from_exception_data("component", [details])
