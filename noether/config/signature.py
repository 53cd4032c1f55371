"""Configs derived from signatures: torch optimizers, any `nn.Module`, loss functions, functions that build a model."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, NamedTuple, Union

from pydantic import ConfigDict, Field, TypeAdapter, create_model

from noether.config.base import _RegistryBase, component_of, construction_of, seed_for, seed_of_run
from noether.config.parameters import (
    NotRepresentable,
    constants,
    constructors,
    given_to_parent,
    label,
    option_type,
    parameters,
    positional,
    representable,
    survives,
    takes_any_keyword,
    without_partials,
)
from noether.errors import PluginError, SpecError
from noether.kernel.entries import ROLES
from noether.kernel.roles import result_problem

SEED = "seed"
"""Option that the run's seed fills in unless the spec gives it."""
_OF_LAYERS = {"device", "dtype"}
"""Parameters of torch's layers, without annotation, that say where a layer is made."""
_HARMLESS = {
    "copy",
    "json",
    "dict",
    "schema",
    "validate",
    "construct",
    "schema_json",
    "from_orm",
    "update_forward_refs",
    "parse_obj",
    "parse_raw",
    "parse_file",
}
"""Names of old methods of pydantic, which options may have."""


_GIVEN_BY_THE_RUN = {"loss": {"input", "target", "mask"}, "schedule": {"total_updates", "updates_per_epoch"}}
"""Arguments that the run passes by name, by role."""
_GIVEN_IN_FRONT = {"optimizer", "collator"}
"""Roles whose first argument is passed by the run: the parameters of the model, the samples of a batch."""


class SignatureConfig(_RegistryBase):
    """Base of the derived configs; separates the arguments of the foreign constructor from other fields."""

    derived_from: ClassVar[tuple[Callable[..., Any], type[_RegistryBase]]]
    left_to_the_class: ClassVar[frozenset[str]] = frozenset()
    """Arguments that are passed on only if the spec gives them: TOML cannot express their default."""
    left_out: ClassVar[dict[str, str]] = {}
    """Parameters that a spec cannot give, each with the reason."""

    def arguments(self, *, seed: int | None = None) -> dict[str, Any]:
        """Return the keyword arguments to construct the foreign class with.

        Args:
            seed: Seed for an option of that name that the spec leaves out; unset: that of the run that is being built.
        """
        base = self.derived_from[1].model_fields
        values = {name: getattr(self, name) for name in type(self).model_fields if name not in base}
        given = {n: v for n, v in values.items() if v is not None or n not in self.left_to_the_class}
        seed = seed_of_run() if seed is None else seed
        seeded = {SEED: seed} if SEED in self.left_to_the_class and seed is not None else {}
        return seeded | given | (self.model_extra or {})

    def __reduce__(self) -> Any:
        """Pickle the target and the base of the class, because a derived class has no importable name."""
        return _restored, (*self.derived_from, self.__getstate__())


def call_with_options(target: Callable[..., Any], options: Mapping[str, Any], *given: Any) -> Any:
    """Call a class or function with options by name, positional-only ones by position.

    Args:
        target: The class or function.
        options: Its options; those that are left out have the defaults of the signature.
        *given: Arguments in front of the options.
    """
    try:
        found = list(inspect.signature(target).parameters.values())[len(given) :]
    except ValueError:  # written in C
        return target(*given, **options)
    named = dict(options)
    by_position = [p for p in found if p.kind is p.POSITIONAL_ONLY]
    last = max((index for index, p in enumerate(by_position, start=1) if p.name in named), default=0)
    return target(*given, *(named.pop(p.name, p.default) for p in by_position[:last]), **named)


def build_component(config: _RegistryBase, *, seed: int | None = None) -> Any:
    """Construct the component of a config, from the config or from its options, and check what a function returned.

    Args:
        config: The config.
        seed: Seed for a constructor with a keyword `seed`; unset: the seed of the run that is being built.

    Raises:
        SpecError: if the constructor raised an error that is not one of Noether's, or returned something else.
    """
    component = component_of(config)
    with construction_of(config):
        if isinstance(config, SignatureConfig):
            made = call_with_options(component.target, config.arguments(seed=seed))
        else:
            made = component.target(config, **seed_for(component.target, seed))
    if (problem := result_problem(ROLES[config.role], made)) is not None:
        raise SpecError(
            f"the {component.role} '{component.kind}' ({component.origin}) {problem}",
            hint=f"return {ROLES[config.role].noun} from {label(component.target)}",
        )
    return made


class _Option(NamedTuple):
    """A parameter that a spec may give.

    Attributes:
        parameter: The parameter.
        constructor: The function that it belongs to.
        is_inherited: True for a parameter of a parent, which the class passes on in `**kwargs`.
        is_required: True if nothing but the spec gives it a value.
    """

    parameter: inspect.Parameter
    constructor: Callable[..., Any]
    is_inherited: bool
    is_required: bool


@cache
def config_from_signature(target: Callable[..., Any], base: type[_RegistryBase]) -> type[SignatureConfig]:
    """Return a strict config class for `target`: the fields of `base` and the options of its signature.

    Tensors, modules, callables and what the run itself provides are left out; a parameter that takes a tensor
    or a number (`lr: float | Tensor`) takes a number. A function with `**kwargs` takes any option.

    Raises:
        PluginError: if an option has a name that is taken, or a spec cannot give a parameter without a default.
    """
    fields: dict[str, Any] = {}
    left_to_the_class: set[str] = set()
    left_out: dict[str, str] = {}
    missing: dict[str, str] = {}
    for option in _options(target, base.role):
        name = option.parameter.name
        if name in fields or name in left_out:
            continue
        try:
            annotation = _annotation(option)
        except NotRepresentable as reason:
            (missing if option.is_required else left_out)[name] = str(reason)
            continue
        if _is_taken(name, base):
            raise _clash(target, base, name)
        fields[name], is_left = _field(target, option, annotation)
        if is_left:
            left_to_the_class.add(name)
    if missing:
        raise _not_buildable(target, base, missing)
    derived = _new_class(target, base, fields)
    derived.derived_from = (target, base)
    derived.left_to_the_class = frozenset(left_to_the_class)
    derived.left_out = left_out
    return derived


def _new_class(target: Any, base: type[_RegistryBase], fields: dict[str, Any]) -> type[SignatureConfig]:
    create: Any = create_model  # its stubs know no class whose fields are data
    bases: Any = (SignatureConfig, base)
    if not inspect.isclass(target) and takes_any_keyword(target):

        class Open(SignatureConfig, base):  # type: ignore[misc, valid-type]  # a base that is data
            model_config = ConfigDict(extra="allow")

        bases = Open
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an option may be called `copy`: nothing calls that method of pydantic's
        name = f"{getattr(target, '__name__', type(target).__name__)}Config"
        created: type[SignatureConfig] = create(name, __base__=bases, **fields)
    created.__doc__ = f"Options of {label(target)}, derived from its signature."
    return created


def _own_parameters(constructor: Callable[..., Any], target: Any, role: str) -> list[inspect.Parameter]:
    """Return the parameters of a function without the first ones, which are given: the object, a model's parameters."""
    found = parameters(constructor)
    in_front = positional(found)[: inspect.isclass(target) + (role in _GIVEN_IN_FRONT)]
    given = {*in_front, *_GIVEN_BY_THE_RUN.get(role, ())}
    return [p for p in found if p.name not in given]


def _options(target: Callable[..., Any], role: str) -> Iterator[_Option]:
    """Yield the parameters of the class, then those of its parents that it passes on and does not give itself."""
    texts: set[str] = set()
    given: set[str] = set()
    child: Callable[..., Any] | None = None
    rest: list[_Option] = []
    for constructor in constructors(target):
        if child is not None:
            given |= given_to_parent(child, constructor)
            texts |= constants(child)
        for parameter in _own_parameters(constructor, target, role):
            is_unnamed = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if _places_a_layer(parameter) or (child and (parameter.name in given or is_unnamed)):
                continue
            has_default = parameter.default is not inspect.Parameter.empty or is_unnamed
            may_be_given = child is not None and parameter.name in texts
            option = _Option(parameter, constructor, child is not None, not has_default and not may_be_given)
            if is_unnamed:
                rest.append(option)
                continue
            rest = [] if child else rest  # `*args, **kwargs` are those of the parent
            yield option
        child = constructor
    if inspect.isclass(target) or not takes_any_keyword(target):
        yield from rest


def _places_a_layer(parameter: inspect.Parameter) -> bool:
    """Return True for the `device=None, dtype=None` of torch's layers; the run moves its model."""
    return parameter.name in _OF_LAYERS and parameter.annotation is parameter.empty and parameter.default is None


def _annotation(option: _Option) -> Any:
    """Return the part of a parameter's type that TOML can express; that of the default if it has none.

    Raises:
        NotRepresentable: if a spec cannot give the parameter.
    """
    parameter = option.parameter
    if parameter.name.startswith("_"):
        raise NotRepresentable("an option does not begin with '_'")
    if parameter.kind is parameter.VAR_KEYWORD:
        raise NotRepresentable("a spec gives a class only the keywords that its constructors name")
    if parameter.kind is parameter.VAR_POSITIONAL:
        raise NotRepresentable("it stands for any number of arguments without names")
    if parameter.annotation is inspect.Parameter.empty:
        return _guessed(parameter.default)
    return option_type(parameter.annotation, option.constructor)


def _guessed(default: Any) -> Any:
    if default is None or default is inspect.Parameter.empty:
        return Any
    try:
        return int | float if type(default) is int else representable(type(default))
    except NotRepresentable as error:
        raise NotRepresentable(f"its default {default!r:.60} has no form in TOML") from error


def _field(target: Callable[..., Any], option: _Option, annotation: Any) -> tuple[tuple[Any, Any], bool]:
    """Return the pydantic field of a parameter, and True if its default is left to the class."""
    parameter = option.parameter
    description = f"`{parameter.name}` of {label(target)}."
    if option.is_required:
        return (annotation, Field(description=description)), False
    is_left = option.is_inherited or parameter.default is inspect.Parameter.empty or _is_seed(parameter, annotation)
    if not is_left and parameter.default is not None and survives(annotation, parameter.default):
        default = TypeAdapter(annotation).validate_python(parameter.default)
        field = annotation, Field(default, description=description)
        return field, False
    optional = Union[annotation, None]  # noqa: UP007 -- an annotation may be no class
    return (optional, Field(None, description=description)), is_left or parameter.default is not None


def _is_seed(parameter: inspect.Parameter, annotation: Any) -> bool:
    return parameter.name == SEED and survives(annotation, 0)


def _is_taken(name: str, base: type[_RegistryBase]) -> bool:
    """Return True if an option cannot have this name; the methods of pydantic that nothing calls can be hidden."""
    if name in _HARMLESS:
        return False
    return hasattr(SignatureConfig, name) or hasattr(base, name) or name in base.model_fields


def _clash(target: Callable[..., Any], base: type[_RegistryBase], name: str) -> PluginError:
    taken = "a key of every" if name in base.model_fields else "a name that Noether uses in the config of every"
    return PluginError(
        f"the name of the parameter '{name}' of {label(target)} is taken: it is {taken} {base.role}",
        hint=f"rename it, or use a function of your own: {_function_of_own(target, name)}",
    )


def _not_buildable(target: Callable[..., Any], base: type[_RegistryBase], missing: dict[str, str]) -> PluginError:
    reasons = "; ".join(f"'{name}' is required, and {reason}" for name, reason in missing.items())
    return PluginError(
        f"a spec cannot give all parameters of {label(target)}: {reasons}",
        hint=f"give {' and '.join(missing)} a default, or another annotation that is imported at run time, or use a "
        f"function of your own: {_function_of_own(target, *missing)}",
        code="unusable-kind",
    )


def _function_of_own(target: Any, *names: str) -> str:
    given = ", ".join(f"{name}=…" for name in names)
    return f"def make(…): return {getattr(without_partials(target), '__name__', 'Class')}({given})"


def _restored(target: Callable[..., Any], base: type[_RegistryBase], state: dict[str, Any]) -> SignatureConfig:
    config_class = config_from_signature(target, base)
    config = config_class.__new__(config_class)
    config.__setstate__(state)
    return config
