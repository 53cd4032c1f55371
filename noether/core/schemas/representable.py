"""Which part of an annotation TOML can express: numbers, text, lists and tables, no tensors, no callables."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import PurePath
from typing import Annotated, Any, Literal, NewType, Union, get_args, get_origin

_SCALARS = (bool, int, float, str, type(None))
_CONTAINERS: dict[Any, Any] = {
    **dict.fromkeys((list, Sequence, Iterable), list),
    tuple: tuple,
    **dict.fromkeys((dict, Mapping), dict),
}


class NotRepresentable(Exception):  # noqa: N818 -- an answer, not an error
    """TOML cannot express any value of an annotation."""


def representable(annotation: Any) -> Any:
    """Return what is left of `annotation` without the parts that TOML cannot express.

    `Union[float, Tensor]` becomes `float`, `tuple[Union[float, Tensor], int]` becomes `tuple[float, int]`.

    Raises:
        NotRepresentable: Nothing is left.
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
    """Tell whether TOML can hold `value`; None can be left out, though not of a list or table."""
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
