"""`Discriminated`: the annotation of a field that holds the config of whatever its `kind` names.

A static union of configs cannot know what is installed, and it puts its tag into the path of every error.
Here the class is looked up while validating, so that any plugin fits and an error's path is the path in the
TOML file.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, GetJsonSchemaHandler, ValidationError, ValidationInfo
from pydantic.errors import PydanticUndefinedAnnotation
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, InitErrorDetails, PydanticCustomError, core_schema

from noether.config.base import REFUSED, _RegistryBase, unknown_kind, validation_of
from noether.config.parameters import constructors, evaluated, label, parameters
from noether.config.signature import config_from_signature
from noether.errors import PluginError
from noether.kernel.entries import ROLES, Component
from noether.kernel.importing import import_target
from noether.kernel.registry import active_registry
from noether.kernel.trust import calling_package

CONFIG_BASES = {
    "callback": "noether.config.components:CallBackBaseConfig",
    "loss": "noether.config.components:LossBaseConfig",
    "model": "noether.config.components:ModelBaseConfig",
    "dataset": "noether.config.components:DatasetBaseConfig",
    "collator": "noether.config.components:CollatorBaseConfig",
    "transform": "noether.config.components:TransformBaseConfig",
    "optimizer": "noether.config.components:OptimizerBaseConfig",
    "schedule": "noether.config.components:ScheduleBaseConfig",
    "tracker": "noether.config.components:TrackerBaseConfig",
    "initializer": "noether.config.components:InitializerConfig",
}
"""The base config of each role that can do without a config class of its own."""
_TRAINER = "noether.training.trainers.config:BaseTrainerConfig"

_BUILT_BY_THE_RUN = {"callback", "trainer", "tracker", "initializer"}
"""Roles whose constructors take parts of the run: what a spec may set cannot be read off their signatures."""


@cache
def config_class_of(target: Callable[..., Any], role: str) -> type[_RegistryBase]:
    """Return the class that validates a spec's table for `target`.

    It is the pydantic class in the annotation of the constructor's config parameter (`config`, or a name that
    ends in `_config`), looked for along the MRO; only that one annotation is evaluated. A class without one
    gets a config derived from its signature. A callback without a `periodic_callback` needs no interval.

    Raises:
        PluginError: if the annotation cannot be evaluated, is not a config of this role, or the signature does not fit.
    """
    found = _annotated_config(target, role)
    if found is None and role not in CONFIG_BASES:
        raise PluginError(
            f"missing config of {label(target)}: found a constructor without a config parameter",
            hint=f"annotate one with a config class: def __init__(self, {role}_config: MyConfig, **kwargs)",
        )
    if found is None and role not in _BUILT_BY_THE_RUN:
        return config_from_signature(target, base_config(role))
    others = beside_config(target, role)
    is_passed = found is not None or role == "callback" or any(map(_may_take_config, _own_parameters(target)))
    needed = [name for name, parameter in others.items() if not is_passed or parameter.default is parameter.empty]
    if needed:
        raise PluginError(
            f"{label(target)} cannot be built: found the parameters {', '.join(needed)}, expected them in its config",
            hint=f"annotate a config class with fields for them: def __init__(self, {role}_config: MyConfig, **kwargs)",
        )
    if found is not None and role in _BUILT_BY_THE_RUN:
        _require_inherited_fields(found, target, role)
    found = found or base_config(role)
    acts_around_training = hasattr(target, "before_training") and not hasattr(target, "periodic_callback")
    if acts_around_training and getattr(found, "needs_interval", False):
        return type(found.__name__, (found,), {"needs_interval": False, "__module__": found.__module__})
    return found


def _require_inherited_fields(found: type[_RegistryBase], target: Callable[..., Any], role: str) -> None:
    """Refuse a config that lacks fields which a class of Noether, from which the component derives, reads.

    A constructor that names the class which has them may make one of its own for that base.

    Raises:
        PluginError: if it does; names the class to derive it from.
    """
    expected = inherited_config(target, role)
    constructor = getattr(getattr(target, "__init__", None), "__code__", None)
    if constructor is not None and expected.__name__ in constructor.co_names:
        return
    if lacking := [name for name in expected.model_fields if name not in found.model_fields]:
        name = expected.__name__.partition("[")[0]
        raise PluginError(
            f"the config {label(found)} of {label(target)} lacks {', '.join(lacking)}: expected a subclass of {name}",
            hint=f"class {found.__name__}({name}): …, with from {expected.__module__} import {name}",
        )


def inherited_config(target: Any, role: str) -> type[_RegistryBase]:
    """Return the class that the config of a component has to derive from: that of its nearest base in Noether."""
    for owner in getattr(target, "__mro__", ()):
        if is_of_noether(owner) and inspect.isfunction(constructor := vars(owner).get("__init__")):
            for parameter in _config_parameters(constructor):
                for candidate in _alternatives(evaluated(parameter.annotation, constructor)):
                    if isinstance(candidate, type) and issubclass(candidate, _RegistryBase) and candidate.role == role:
                        return candidate
    return base_config(role)


def hint_for_own_option(config: type[BaseModel] | None, kind: Any, option: str) -> str | None:
    """Return the way to give a component an option if its class has no config of its own; None if it has one.

    Args:
        config: The class that validated its table.
        kind: Its kind.
        option: Name of the option.
    """
    role = getattr(config, "role", "")
    if config is None or role not in _BUILT_BY_THE_RUN or not is_of_noether(config) or not isinstance(kind, str):
        return None
    try:
        target = active_registry().load(role, kind).target
    except PluginError:
        return None
    if is_of_noether(target) or not inspect.isclass(target):
        return None
    name, base = target.__name__, config.__name__.partition("[")[0]
    return (
        f"for an option of {name}: class {name}Config({base}), with the field {option}, in the annotation of its "
        f"constructor: def __init__(self, {role}_config: {name}Config, **kwargs)"
    )


def is_of_noether(found: Any) -> bool:
    """Return True if a class or function is of the framework, and not of a project or a plugin."""
    return str(getattr(found, "__module__", "")).partition(".")[0] == "noether"


def _annotated_config(target: Callable[..., Any], role: str) -> type[_RegistryBase] | None:
    for constructor in constructors(target):
        for parameter in _config_parameters(constructor):
            found = _annotated_class(constructor, parameter, target, role)
            if found is not None:
                return _complete(found)
    return None


def beside_config(target: Callable[..., Any], role: str) -> dict[str, inspect.Parameter]:
    """Return the parameters of a constructor that neither the config nor the run gives, by name."""
    if role in ("loss", "optimizer", "trainer"):  # called with options, or with parts of the run that it may rename
        return {}
    given = {"seed", "total_updates", "updates_per_epoch"}
    if role in _BUILT_BY_THE_RUN:
        base: Any = import_target(ROLES[role].base or "")
        given |= {parameter.name for parameter in parameters(base.__init__)}
    found = [p for p in _own_parameters(target) if p.name not in given and not _may_take_config(p)]
    return {p.name: p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def _own_parameters(target: Callable[..., Any]) -> list[inspect.Parameter]:
    return parameters(next(constructors(target), target))[inspect.isclass(target) :]


def _may_take_config(parameter: inspect.Parameter) -> bool:
    return parameter.name == "config" or parameter.name.endswith("_config")


def base_config(role: str) -> type[_RegistryBase]:
    """Return the config class with the fields that every kind of a role has."""
    module, _, name = CONFIG_BASES.get(role, _TRAINER).partition(":")
    base: type[_RegistryBase] = getattr(import_module(module), name)
    return base


def _complete(found: type[_RegistryBase]) -> type[_RegistryBase]:
    """Return a config class whose annotations are all evaluated.

    Raises:
        PluginError: if one names what does not exist at run time.
    """
    try:
        found.model_rebuild()
    except PydanticUndefinedAnnotation as error:
        raise PluginError(
            f"an annotation of the config {label(found)} cannot be evaluated: {error.message.partition(chr(10))[0]}",
            hint=f"import {error.name} at the top of the module, not under TYPE_CHECKING",
        ) from error
    return found


def _config_parameters(constructor: Callable[..., Any]) -> Iterator[inspect.Parameter]:
    """Yield the annotated parameters that may take the config; without an annotation the parent's decides."""
    for parameter in parameters(constructor):
        if _may_take_config(parameter) and parameter.annotation is not inspect.Parameter.empty:
            yield parameter


def _annotated_class(
    constructor: Callable[..., Any], parameter: inspect.Parameter, target: Any, role: str
) -> type[_RegistryBase] | None:
    """Return the config class in an annotation; None if it is an option like any other, `vision_config: dict`."""
    where = f"the annotation of '{parameter.name}' in {constructor.__qualname__}"
    for candidate in _alternatives(_evaluated(constructor, parameter.annotation, where)):
        if isinstance(candidate, type) and issubclass(candidate, _RegistryBase):
            if candidate.role == role:
                return candidate
            raise PluginError(
                f"{where} has the wrong role: found {candidate.__name__}, the config of a "
                f"{candidate.role or 'component'}, expected that of a {role}, as which {label(target)} is used"
            )
    if role in CONFIG_BASES and role not in _BUILT_BY_THE_RUN:
        return None
    expected = inherited_config(target, role)
    hint = f"derive the config from {expected.__module__}.{expected.__name__.partition('[')[0]}"
    raise PluginError(f"{where} is not a config class", hint=hint)


def _evaluated(constructor: Callable[..., Any], annotation: Any, where: str) -> Any:
    try:
        return evaluated(annotation, constructor)
    except Exception as error:
        raise PluginError(
            f"{where} cannot be evaluated: {annotation!r} ({error})",
            hint="define or import the config class at the top of the module, not under TYPE_CHECKING",
        ) from error


def _alternatives(annotation: Any) -> Iterator[Any]:
    """Yield the types that an annotation allows: the members of a union, a type variable's bound."""
    if isinstance(annotation, TypeVar):
        yield from _alternatives(annotation.__bound__)
    elif get_origin(annotation) is Union or get_origin(annotation) is UnionType:
        for member in get_args(annotation):
            yield from _alternatives(member)
    else:
        yield annotation


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
            wrong = unknown_kind(error.message, hint=error.hint, code=error.code)
            details = [InitErrorDetails(type=wrong, loc=where, input=kind)]
            details += self._problems_of_any_kind(table, info)
            raise ValidationError.from_exception_data("component", details) from error
        with validation_of(component):
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


def _error_at(where: tuple[str, ...], kind_of_error: str | PydanticCustomError, found: Any) -> ValidationError:
    details = InitErrorDetails(type=kind_of_error, loc=where, input=found)
    return ValidationError.from_exception_data("component", [details])
