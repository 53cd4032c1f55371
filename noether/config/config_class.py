"""Find the pydantic class of a component's config: annotated in its constructor, or from its signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from noether.config.base import _RegistryBase
from noether.config.signature import config_from_signature, constructors, evaluated, label, parameters
from noether.errors import PluginError

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
    found = _found(target, role)
    acts_around_training = hasattr(target, "before_training") and not hasattr(target, "periodic_callback")
    if acts_around_training and getattr(found, "needs_interval", False):
        return type(found.__name__, (found,), {"needs_interval": False, "__module__": found.__module__})
    return found


def _found(target: Callable[..., Any], role: str) -> type[_RegistryBase]:
    for constructor in constructors(target):
        parameter = _config_parameter(constructor)
        if parameter is not None:
            return _annotated_class(constructor, parameter, target, role)
    if role not in CONFIG_BASES:
        raise PluginError(
            f"missing config of {label(target)}: found a constructor without a config parameter",
            hint=f"annotate one with a config class: def __init__(self, {role}_config: MyConfig, **kwargs)",
        )
    base = base_config(role)
    return base if role in _BUILT_BY_THE_RUN else config_from_signature(target, base)


def base_config(role: str) -> type[_RegistryBase]:
    """Return the config class with the fields that every kind of a role has."""
    module, _, name = CONFIG_BASES.get(role, _TRAINER).partition(":")
    base: type[_RegistryBase] = getattr(import_module(module), name)
    return base


def _config_parameter(constructor: Callable[..., Any]) -> inspect.Parameter | None:
    """Return the annotated parameter that takes the config; without an annotation the parent's decides."""
    for parameter in parameters(constructor):
        named_config = parameter.name == "config" or parameter.name.endswith("_config")
        if named_config and parameter.annotation is not inspect.Parameter.empty:
            return parameter
    return None


def _annotated_class(
    constructor: Callable[..., Any], parameter: inspect.Parameter, target: Any, role: str
) -> type[_RegistryBase]:
    where = f"the annotation of '{parameter.name}' in {constructor.__qualname__}"
    for candidate in _alternatives(_evaluated(constructor, parameter.annotation, where)):
        if isinstance(candidate, type) and issubclass(candidate, _RegistryBase):
            if candidate.role == role:
                return candidate
            raise PluginError(
                f"{where} has the wrong role: found {candidate.__name__}, the config of a "
                f"{candidate.role or 'component'}, expected that of a {role}, as which {label(target)} is used"
            )
    hint = CONFIG_BASES.get(role, _TRAINER).replace(":", ".")
    raise PluginError(f"{where} is not a config class", hint=f"derive the config from {hint}")


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
