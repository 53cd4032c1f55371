"""Trees of a saved state: nested values as JSON, their tensors beside it, code by its name."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor

from noether.errors import TrainingError

_SHOWN = 200  # characters of a quotation in a message


@dataclass(frozen=True, slots=True)
class CodeName:
    """A function, a class or a type of torch in a saved state: code is loaded with the model, never from a file.

    Attributes:
        name: Its module and name.
    """

    name: str

    @classmethod
    def of(cls, value: Any) -> CodeName | None:
        """Return the name of a value that is code; None for any other value."""
        if isinstance(value, torch.dtype | torch.device | torch.layout | torch.memory_format):
            return cls(str(value))
        if isinstance(value, type | FunctionType | BuiltinFunctionType):
            return cls(f"{value.__module__}.{value.__qualname__}")
        return None


def _without_code(value: Any) -> Any:
    """Replace code by its name; containers of other classes, which would come back as plain ones, become `_Foreign`."""
    if type(value) in (dict, OrderedDict):
        return {key: _without_code(item) for key, item in value.items()}
    if type(value) in (list, tuple, torch.Size):
        return (list if type(value) is list else tuple)(map(_without_code, value))
    if isinstance(value, dict | list | tuple):
        return _Foreign(type(value).__name__)
    return CodeName.of(value) or value


@dataclass(frozen=True, slots=True)
class _Foreign:
    """A value that no checkpoint can hold, by the name of its class."""

    name: str


def split_state(state: Any, owner: str, beside: Mapping[str, Tensor] | None = None) -> tuple[Any, dict[str, Tensor]]:
    """Return the JSON tree of `state` and its tensors by name.

    Args:
        state: Nested dicts, lists and tuples of tensors, numbers, strings, bytes, booleans and None.
        owner: Owner of the state, for error messages.
        beside: Tensors of other names in the same file, which are returned too; for the state of a model, in which code
            may stand.

    Raises:
        TrainingError: if something in `state` has another type.
    """
    tensors: dict[str, Tensor] = dict(beside or {})
    try:
        return _split(_without_code(state) if beside is not None else state, owner, "", tensors), tensors
    except RecursionError:
        raise TrainingError(f"the state of {owner} is nested too deeply, or contains itself") from None


_IMMEDIATE = frozenset({str, int, bool})


def _split(value: Any, owner: str, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = path or "value"
        while name in tensors:  # {"a/b": …, "a": {"b": …}} and {1: …, "1": …} lead to one path twice
            name += "'"
        tensors[name] = value.detach()
        return {"$tensor": name}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, complex):
        return {"$complex": [_split(part, owner, path, tensors) for part in (value.real, value.imag)]}
    if isinstance(value, bytes | bytearray):
        return {"$bytes": value.hex()}
    if isinstance(value, CodeName):
        return {"$code": value.name}
    if isinstance(value, dict):
        return _split_dict(value, owner, path, tensors)
    if isinstance(value, list) and _IMMEDIATE.issuperset(map(type, value)):
        return list(value)  # thousands of names, for example
    if isinstance(value, list | tuple):
        items = [_split(item, owner, f"{path}/{index}".lstrip("/"), tensors) for index, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    name = value.name if isinstance(value, _Foreign) else type(value).__name__
    raise TrainingError(
        f"a checkpoint cannot hold the state of {owner}: found a {name} at '{path}', expected tensors, "
        "numbers, strings, bytes, booleans, None, and dicts, lists and tuples of these",
        hint="convert it in state_dict() or get_extra_state()",
    )


def _split_dict(value: dict[Any, Any], owner: str, path: str, tensors: dict[str, Tensor]) -> Any:
    split = [(key, _split(item, owner, f"{path}/{key}".lstrip("/"), tensors)) for key, item in value.items()]
    if all(isinstance(key, str) and not key.startswith("$") for key in value):
        return dict(split)
    return {"$items": [[_split(key, owner, path, tensors), item] for key, item in split]}


def join_state(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the state from which `split_state` made `tree` and `tensors`.

    Raises:
        ValueError: if `split_state` did not make the tree: it names a tensor that does not exist, or a mark is
            malformed.
    """
    if isinstance(tree, list):
        return [join_state(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    mark = next((key for key in tree if key.startswith("$")), None)
    if mark is None:
        return {key: join_state(item, tensors) for key, item in tree.items()}
    if len(tree) > 1 or mark not in _JOINED:
        raise ValueError(f"a state cannot hold {mark[:_SHOWN]!r} here")
    try:
        return _JOINED[mark](tree[mark], tensors)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{mark!r} in a state has no target: {str(error)[:_SHOWN]}") from error


def _join_tensor(name: Any, tensors: dict[str, Tensor]) -> Tensor:
    return tensors[name]


def _join_float(text: Any, _: dict[str, Tensor]) -> float:
    if text not in ("nan", "inf", "-inf"):
        raise ValueError(f"wrong number in a state: found {str(text)[:_SHOWN]!r}, expected nan, inf or -inf")
    return float(text)


def _join_tuple(items: Any, tensors: dict[str, Tensor]) -> tuple[Any, ...]:
    return tuple(join_state(_list(items), tensors))


def _join_items(items: Any, tensors: dict[str, Tensor]) -> dict[Any, Any]:
    pairs = [_list(pair) for pair in _list(items)]
    return {join_state(key, tensors): join_state(item, tensors) for key, item in pairs}


def _join_complex(parts: Any, tensors: dict[str, Tensor]) -> complex:
    return complex(*(join_state(part, tensors) for part in _list(parts)))


def _join_bytes(text: Any, _: dict[str, Tensor]) -> bytes:
    return bytes.fromhex(text)


def _join_code(name: Any, _: dict[str, Tensor]) -> CodeName:
    return CodeName(str(name))


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"found a {type(value).__name__} in a state, expected a list")
    return value


_JOINED: dict[str, Callable[[Any, dict[str, Tensor]], Any]] = {
    "$tensor": _join_tensor,
    "$float": _join_float,
    "$complex": _join_complex,
    "$bytes": _join_bytes,
    "$code": _join_code,
    "$tuple": _join_tuple,
    "$items": _join_items,
}
