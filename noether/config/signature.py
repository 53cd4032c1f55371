"""Configs derived from signatures: torch optimizers, any `nn.Module`, loss functions."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from functools import cache
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Literal, NewType, Union, get_args, get_origin, get_overloads

from pydantic import Field, TypeAdapter, ValidationError, create_model

from noether.config.base import _RegistryBase
from noether.errors import PluginError


def constructors(target: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Yield the functions that a call of `target` runs: itself, or its `__init__`s while they pass keywords on."""
    if not inspect.isclass(target):
        yield target
        return
    for owner in target.__mro__:
        constructor = vars(owner).get("__init__")
        if not inspect.isfunction(constructor):
            continue
        yield constructor
        if not any(p.kind is p.VAR_KEYWORD for p in parameters(constructor)):
            return


def parameters(constructor: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of `constructor`, none if it hides them (a builtin).

    An `*args, **kwargs` with overloads (`torch.nn.LSTM`) has those of the most detailed overload.
    """
    alternatives = [*get_overloads(constructor), constructor]
    try:
        return max((list(inspect.signature(each).parameters.values()) for each in alternatives), key=len)
    except ValueError:
        return []


def evaluated(annotation: Any, constructor: Callable[..., Any]) -> Any:
    """Evaluate an annotation that `from __future__ import annotations` may have left as text.

    Raises:
        Exception: If evaluating the text raises, mostly a NameError.
    """
    if not isinstance(annotation, str):
        return annotation
    return eval(annotation, getattr(inspect.unwrap(constructor), "__globals__", {}))


def label(target: Any) -> str:
    """Return the import path of a class or function, for messages."""
    return f"{target.__module__}.{getattr(target, '__qualname__', type(target).__qualname__)}"


_SCALARS = (bool, int, float, str, type(None))
_CONTAINERS: dict[Any, Any] = {
    **dict.fromkeys((list, Sequence, Iterable), list),
    tuple: tuple,
    **dict.fromkeys((dict, Mapping), dict),
}


class NotRepresentable(Exception):  # noqa: N818 -- an answer, not an error
    """TOML cannot express any value of an annotation."""


def representable(annotation: Any) -> Any:
    """Return `annotation` without the parts that TOML cannot express.

    `Union[float, Tensor]` becomes `float`, `tuple[Union[float, Tensor], int]` becomes `tuple[float, int]`.

    Raises:
        NotRepresentable: if nothing is left.
    """
    if annotation is Any or annotation is inspect.Parameter.empty:
        return Any
    if annotation is None:
        return type(None)
    if isinstance(annotation, NewType):
        return representable(annotation.__supertype__)
    origin = get_origin(annotation)
    if origin is Union or origin is types.UnionType:
        return _union(get_args(annotation))
    if origin is Annotated:
        representable(get_args(annotation)[0])
        return annotation
    if origin is Literal:
        return _checked(annotation, all(isinstance(value, _SCALARS) for value in get_args(annotation)))
    if isinstance(annotation, type) and origin is None:
        return _plain(annotation)
    return _container(origin, get_args(annotation))


def is_plain_value(value: Any) -> bool:
    """Return True if TOML can hold `value`; None can be left out, but not in a list or table."""
    if isinstance(value, (list, tuple)):
        return all(item is not None and is_plain_value(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain_value([item]) for key, item in value.items())
    return isinstance(value, (*_SCALARS, PurePath)) or isinstance(getattr(value, "value", None), (str, int))


def _plain(annotation: type) -> Any:
    fits = annotation in _SCALARS or annotation in _CONTAINERS or issubclass(annotation, (PurePath, Enum))
    return _checked(_CONTAINERS.get(annotation, annotation), fits)


def _container(origin: Any, arguments: tuple[Any, ...]) -> Any:
    container = _CONTAINERS.get(origin)
    if container is None:
        raise NotRepresentable
    if container is dict and arguments[0] is not str:
        raise NotRepresentable
    kept = tuple(item if item is Ellipsis else _without_null(representable(item)) for item in arguments)
    return container[kept if container is not list else kept[0]]


def _without_null(annotation: Any) -> Any:
    """Return an item's type without None, which a TOML list cannot hold."""
    if get_origin(annotation) is Union:
        kept = tuple(member for member in get_args(annotation) if member is not type(None))
        return Union[kept]  # noqa: UP007 -- members known at run time only
    return annotation


def _union(members: tuple[Any, ...]) -> Any:
    kept = []
    for member in members:
        try:
            kept.append(representable(member))
        except NotRepresentable:
            continue
    if all(member is type(None) for member in kept):
        raise NotRepresentable
    return Union[tuple(kept)]  # noqa: UP007 -- members known at run time only


def _checked(annotation: Any, fits: bool) -> Any:
    if not fits:
        raise NotRepresentable
    return annotation


_GIVEN_BY_THE_RUN = {"self", "params", "device", "dtype", "input", "target"}
"""Parameters that the run fills in: parameters to optimise, a model's device, a loss's operands."""


_OPERANDS = {"collator": 1}
"""Leading parameters that the run passes, by role, whatever their names are."""


class SignatureConfig(_RegistryBase):
    """Base of the derived configs; separates the arguments of the foreign constructor from other fields."""

    derived_from: ClassVar[tuple[Callable[..., Any], type[_RegistryBase]]]
    left_to_the_class: ClassVar[frozenset[str]] = frozenset()
    """Arguments whose default TOML cannot express: passed on only if the spec gives them."""

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments to construct the foreign class with."""
        base = self.derived_from[1].model_fields
        values = {name: getattr(self, name) for name in type(self).model_fields if name not in base}
        return {n: v for n, v in values.items() if v is not None or n not in self.left_to_the_class}

    def __reduce__(self) -> Any:
        """Pickle the target and the base of the class, because a derived class has no importable name."""
        return _restored, (*self.derived_from, self.__getstate__())


@cache
def config_from_signature(target: Callable[..., Any], base: type[_RegistryBase]) -> type[SignatureConfig]:
    """Return a strict config class for `target`: the fields of `base` and the options of its signature.

    Tensors, modules, callables and what the run itself provides are left out; a parameter that takes a tensor
    or a number (`lr: float | Tensor`) takes a number.

    Raises:
        PluginError: if an option has the name of one of Noether's own fields.
    """
    fields: dict[str, Any] = {}
    left_to_the_class = set()
    for parameter, scope in _parameters(target, _OPERANDS.get(base.role, 0)):
        if parameter.name in fields or parameter.name in _GIVEN_BY_THE_RUN or parameter.name.startswith("_"):
            continue
        try:
            annotation = _annotation(parameter, scope)
        except NotRepresentable:
            continue
        if hasattr(base, parameter.name) or parameter.name in base.model_fields:
            raise _clash(target, base, parameter.name)
        field = _field(target, parameter, annotation)
        fields[parameter.name] = field
        if field[1].default is None and parameter.default is not None:
            left_to_the_class.add(parameter.name)
    name = f"{getattr(target, '__name__', type(target).__name__)}Config"
    derived = _new_class(name, (SignatureConfig, base), fields)
    derived.__doc__ = f"Options of {label(target)}, derived from its signature."
    derived.derived_from = (target, base)
    derived.left_to_the_class = frozenset(left_to_the_class)
    return derived


def _new_class(name: str, bases: Any, fields: dict[str, Any]) -> type[SignatureConfig]:
    create: Any = create_model  # its stubs know no class whose fields are data
    created: type[SignatureConfig] = create(name, __base__=bases, **fields)
    return created


def _parameters(target: Callable[..., Any], operands: int) -> Iterator[tuple[inspect.Parameter, Callable[..., Any]]]:
    """Yield the parameters that a keyword reaches, without the operands, each with the function that it belongs to."""
    for constructor in constructors(target):
        for parameter in parameters(constructor)[operands:]:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                yield parameter, constructor


def _annotation(parameter: inspect.Parameter, scope: Callable[..., Any]) -> Any:
    """Return the part of a parameter's type that TOML can express; that of the default if it has none."""
    default = parameter.default
    if parameter.annotation is inspect.Parameter.empty:
        return _guessed(default)
    try:
        annotation = representable(evaluated(parameter.annotation, scope))
    except NotRepresentable:
        raise
    except Exception as error:  # an annotation may name what only a type checker imports
        raise NotRepresentable from error
    return annotation | None if default is None else annotation


def _guessed(default: Any) -> Any:
    if default is None or default is inspect.Parameter.empty:
        return Any
    if not is_plain_value(default):
        raise NotRepresentable
    return int | float if type(default) is int else type(default)


def _field(target: Callable[..., Any], parameter: inspect.Parameter, annotation: Any) -> tuple[Any, Any]:
    """Return the pydantic field of a parameter; a default that does not fit becomes None."""
    description = f"`{parameter.name}` of {label(target)}."
    if parameter.default is inspect.Parameter.empty:
        return annotation, Field(description=description)
    default = _default(parameter, annotation)
    if default is None:
        return annotation | None, Field(None, description=description)
    return annotation, Field(default, description=description)


def _default(parameter: inspect.Parameter, annotation: Any) -> Any:
    """Return the default as its field holds it (a tuple as a list), or None if TOML cannot express it."""
    if not is_plain_value(parameter.default):
        return None
    try:
        return TypeAdapter(annotation).validate_python(parameter.default)
    except ValidationError:
        return None


def _clash(target: Callable[..., Any], base: type[_RegistryBase], name: str) -> PluginError:
    return PluginError(
        f"name clash: the parameter '{name}' of {label(target)} has the name of a field of {base.__name__}",
        hint="rename it, or give the class a config of its own: "
        f"class MyConfig({base.__name__}) in the annotation of a parameter named config",
    )


def _restored(target: Callable[..., Any], base: type[_RegistryBase], state: dict[str, Any]) -> SignatureConfig:
    config_class = config_from_signature(target, base)
    config = config_class.__new__(config_class)
    config.__setstate__(state)
    return config
