"""Parameters of constructors: those that a call reaches, and the part of their annotations that TOML can express."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import math
import os
import types
import typing
from collections import OrderedDict, abc, deque
from collections.abc import Callable, Iterator, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import partial, partialmethod
from numbers import Integral, Number, Real
from pathlib import Path, PurePath
from textwrap import dedent
from typing import (
    Annotated,
    Any,
    Literal,
    NewType,
    NotRequired,
    Required,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_overloads,
)
from uuid import UUID

import typing_extensions
from pydantic import BaseModel, PlainSerializer, TypeAdapter
from pydantic_core import to_jsonable_python


def constructors(target: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Yield the functions that a call of `target` runs: itself, or its `__init__`s while they pass keywords on."""
    if not inspect.isclass(target):
        yield target
        return
    for owner in target.__mro__:
        own = vars(owner)
        name = "__init__" if "__init__" in own else "__new__"
        constructor = getattr(owner, name) if name in own else None  # looked up, since it may be a partialmethod
        if not inspect.isfunction(constructor):
            continue
        yield constructor
        if not takes_any_keyword(constructor):
            return


def parameters(constructor: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of `constructor`, none if it hides them (a builtin).

    An `*args, **kwargs` with overloads (`torch.nn.LSTM`) has those of the most detailed overload.
    """
    alternatives = [*get_overloads(without_partials(constructor)), constructor]
    try:
        return max((list(inspect.signature(each).parameters.values()) for each in alternatives), key=len)
    except ValueError:
        return []


def takes_any_keyword(constructor: Callable[..., Any]) -> bool:
    """Return True if a function has a parameter `**kwargs`."""
    return any(p.kind is p.VAR_KEYWORD for p in parameters(constructor))


def positional(found: Sequence[inspect.Parameter]) -> list[str]:
    """Return the names of the parameters that an argument reaches by position, in their order."""
    return [p.name for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def without_partials(target: Any) -> Any:
    """Return the function or class in a `functools.partial`, or the object itself."""
    return without_partials(target.func) if isinstance(target, partial) else target


def label(target: Any) -> str:
    """Return the import path of a class or function, for messages."""
    target = without_partials(target)
    return f"{target.__module__}.{getattr(target, '__qualname__', type(target).__qualname__)}"


def given_to_parent(constructor: Callable[..., Any], parent: Callable[..., Any]) -> set[str]:
    """Return the parameters of a parent that a constructor gives itself: `super().__init__(16, act="relu", **kwargs)`.

    Args:
        constructor: The constructor, which passes its `**kwargs` on.
        parent: The constructor of the parent.
    """
    try:
        tree = ast.parse(dedent(inspect.getsource(inspect.unwrap(constructor))))
    except (OSError, TypeError, SyntaxError):  # no source, as in an interpreter
        return set()
    given: set[str] = set()
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or call.func.attr != "__init__":
            continue
        named = [word.arg for word in call.keywords]
        if None in named:  # it passes **kwargs on
            is_super = isinstance(call.func.value, ast.Call)  # if not, the object is an argument: Parent.__init__(self)
            number = len([value for value in call.args if not isinstance(value, ast.Starred)]) + is_super
            given |= {*positional(parameters(parent))[:number], *filter(None, named)}
    return given


def constants(constructor: Callable[..., Any]) -> set[str]:
    """Return the text in the code of a constructor, such as the key of `kwargs["width"] = 16`."""
    code = getattr(inspect.unwrap(constructor), "__code__", None)
    return {text for text in getattr(code, "co_consts", ()) if isinstance(text, str)}


_SCALARS = (bool, int, float, str, type(None))
_AS_TEXT = (date, time, timedelta, Decimal, UUID)  # a datetime is a date
_CONTAINERS: dict[Any, Any] = {
    **dict.fromkeys((list, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable), list),
    **dict.fromkeys((set, abc.Set, abc.MutableSet), set),
    **dict.fromkeys((dict, abc.Mapping, abc.MutableMapping), dict),
    **{container: container for container in (tuple, frozenset, deque, OrderedDict)},
}
"""The container that a spec's list or table becomes, by the container in an annotation."""


class NotRepresentable(Exception):  # noqa: N818 -- an answer, not an error
    """A spec cannot give any value of an annotation; the text is the reason, a clause."""


def evaluated(annotation: Any, constructor: Callable[..., Any]) -> Any:
    """Evaluate an annotation and the forward references in it, in the module of its function.

    Raises:
        Exception: If evaluating raises, mostly a NameError.
    """
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    return typing.get_type_hints(holder, globalns=_scope(constructor), include_extras=True)["it"]


def _scope(function: Any) -> dict[str, Any]:
    """Return the names that the annotations of a function, a partial or a class are evaluated with."""
    found = inspect.unwrap(function)
    found = getattr(found, "_partialmethod", getattr(found, "__partialmethod__", found))
    if isinstance(found, (partial, partialmethod)):
        return _scope(found.func)
    names: dict[str, Any] = getattr(found.__init__ if inspect.isclass(found) else found, "__globals__", {})
    return names


def option_type(annotation: Any, constructor: Callable[..., Any]) -> Any:
    """Return the type of the values that a spec can give a parameter with this annotation.

    Raises:
        NotRepresentable: if a spec cannot give any.
    """
    try:
        found = evaluated(annotation, constructor)
    except Exception as error:  # an annotation may name what only a type checker imports
        raise NotRepresentable(f"its annotation {shown(annotation)} cannot be evaluated: {error}") from error
    try:
        found = representable(found)
        TypeAdapter(found)
    except NotRepresentable as error:
        raise NotRepresentable(f"its annotation {shown(annotation)} has no form in TOML") from error
    except Exception as error:  # a field of a dataclass may be of any type
        reason = str(error).partition("\n")[0]
        raise NotRepresentable(f"its annotation {shown(annotation)} has no form in TOML: {reason}") from error
    return found


def shown(annotation: Any) -> str:
    """Return an annotation as its author wrote it."""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def representable(annotation: Any) -> Any:
    """Return `annotation` without the parts that TOML cannot express.

    `Union[float, Tensor]` becomes `float`, `tuple[Union[float, Tensor], int]` becomes `tuple[float, int]`.

    Raises:
        NotRepresentable: if nothing is left.
    """
    if annotation is Any or annotation is object or annotation is inspect.Parameter.empty:
        return Any
    if annotation is None:
        return type(None)
    if isinstance(annotation, NewType):
        return representable(annotation.__supertype__)
    if isinstance(annotation, TypeVar):
        return _type_variable(annotation)
    origin = get_origin(annotation)
    if origin is Union or origin is types.UnionType:
        return _union(get_args(annotation))
    if origin is Annotated:
        first, *metadata = get_args(annotation)
        return Annotated[(representable(first), *metadata)]
    if origin is Literal:
        return _checked(annotation, all(type(value) in _SCALARS for value in get_args(annotation)))
    if isinstance(annotation, type) and origin is None:
        return _plain(annotation)
    return _container(annotation, origin, get_args(annotation))


def _type_variable(variable: TypeVar) -> Any:
    if variable.__constraints__:
        return _union(variable.__constraints__)
    return Any if variable.__bound__ is None else representable(variable.__bound__)


def _plain(annotation: type) -> Any:
    if issubclass(annotation, PurePath) or annotation is os.PathLike:
        return Path
    if typing.is_typeddict(annotation) or typing_extensions.is_typeddict(annotation):
        return _typed_dict(annotation)
    if annotation in _CONTAINERS:
        return _sorted(_CONTAINERS[annotation])
    if issubclass(annotation, Enum):
        return _checked(annotation, all(isinstance(member.value, _SCALARS) for member in annotation))
    if annotation not in _SCALARS and (annotation is Number or issubclass(annotation, Real)):  # those of numpy as well
        return int if issubclass(annotation, Integral) else float
    has_fields = dataclasses.is_dataclass(annotation) or (
        issubclass(annotation, tuple) and hasattr(annotation, "_fields")
    )
    return _checked(annotation, annotation in _SCALARS or has_fields or issubclass(annotation, (*_AS_TEXT, BaseModel)))


def _typed_dict(annotation: Any) -> Any:
    """Return a TypedDict with representable values, of the sort that pydantic takes in every Python."""
    fields = {}
    for name, hint in typing.get_type_hints(annotation, include_extras=True).items():
        mark = get_origin(hint) if get_origin(hint) in (Required, NotRequired) else None
        value = representable(get_args(hint)[0] if mark else hint)
        is_needed = mark is Required or (mark is None and name in annotation.__required_keys__)
        fields[name] = value if is_needed else NotRequired[value]
    return typing_extensions.TypedDict(annotation.__name__, fields)  # type: ignore[operator]


def _container(annotation: Any, origin: Any, arguments: tuple[Any, ...]) -> Any:
    if origin is os.PathLike:
        return Path
    container = _CONTAINERS.get(origin)
    if container is None:
        return _checked(annotation, False)
    kept = tuple(item if item is Ellipsis else _without_null(representable(item)) for item in arguments)
    if container in (dict, OrderedDict):
        key = kept[0]
        _checked(annotation, key in (str, int) or get_origin(key) is Literal or _is_enum(key))
    return _sorted(container[kept if container in (tuple, dict, OrderedDict) else kept[0]])


def _is_enum(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Enum)


def _sorted(annotation: Any) -> Any:
    """Return a set that is written in one order: that of a set of text differs from process to process."""
    if (get_origin(annotation) or annotation) not in (set, frozenset):
        return annotation
    return Annotated[annotation, PlainSerializer(_in_order, when_used="json")]


def _in_order(items: abc.Set[Any]) -> list[Any]:
    return sorted(to_jsonable_python(items), key=lambda item: (str(type(item)), item))


def _without_null(annotation: Any) -> Any:
    """Return an item's type without None, which a TOML list cannot hold."""
    if get_origin(annotation) is Union:
        kept = tuple(member for member in get_args(annotation) if member is not type(None))
        return Union[kept]  # noqa: UP007 -- members known at run time only
    return annotation


def _union(members: tuple[Any, ...]) -> Any:
    """Return the members that TOML can express; text that may be a path is one."""
    kept = []
    for member in members:
        try:
            kept.append(representable(member))
        except NotRepresentable:
            continue
    if Path in kept:
        kept = [member for member in kept if member is not str]
    if all(member is type(None) for member in kept):
        raise NotRepresentable
    return Union[tuple(kept)]  # noqa: UP007 -- members known at run time only


def _checked(annotation: Any, fits: bool) -> Any:
    if not fits:
        raise NotRepresentable
    return annotation


def survives(annotation: Any, default: Any) -> bool:
    """Return True if a spec can hold a default: written to TOML and read again, it is the same value.

    NaN does not, nor does a tuple for a parameter of any type: it would come back as a list.
    """
    try:
        adapter = TypeAdapter(annotation)
        value = adapter.validate_python(default)
        written = _as_toml(adapter.dump_python(value, mode="json", warnings=False))
        again = adapter.validate_json(json.dumps(written), strict=True)
        kept = value == default or isinstance(default, (list, tuple))  # a parameter may take any sequence
        return bool(kept and again == value and type(again) is type(value))
    except Exception:  # validators, comparisons and serializers of any class
        return False


def _as_toml(value: Any) -> Any:
    """Return a value without keys of None, as TOML holds it.

    Raises:
        ValueError: if TOML cannot hold it, or a spec refuses it.
    """
    if isinstance(value, dict):
        return {key: _as_toml(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_as_toml(item) for item in value]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise ValueError("found None or nan")
    return value
