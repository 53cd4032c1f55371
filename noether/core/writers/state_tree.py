"""Splits a state into a JSON tree and flat tensors, and joins them again; nothing is ever pickled.

A tensor becomes `{"$tensor": "<name>"}`, a tuple `{"$tuple": [...]}`, a dict with keys that are no strings
`{"$items": [[key, value], ...]}`, and a float that JSON lacks `{"$float": "nan"}`.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from noether.errors import TrainingError

_SHOWN = 200  # characters of what a message quotes


def split_state(state: Any, owner: str) -> tuple[Any, dict[str, Tensor]]:
    """Return the JSON tree of `state` and its tensors by name.

    Args:
        state: Nested dicts, lists and tuples of tensors, numbers, strings, booleans and None.
        owner: Whose state it is, for error messages.

    Raises:
        TrainingError: Something in `state` is of another type.
    """
    tensors: dict[str, Tensor] = {}
    try:
        return _split(state, owner, "", tensors), tensors
    except RecursionError:
        raise TrainingError(f"the state of {owner} is nested too deeply, or holds itself") from None


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
    if isinstance(value, dict):
        return _split_dict(value, owner, path, tensors)
    if isinstance(value, list | tuple):
        items = [_split(item, owner, f"{path}/{index}".lstrip("/"), tensors) for index, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    raise TrainingError(
        f"the state of {owner} holds a {type(value).__name__} at '{path}', which a checkpoint cannot keep",
        hint="return tensors, numbers, strings, booleans, None, and dicts, lists and tuples of these from state_dict()",
    )


def _split_dict(value: dict[Any, Any], owner: str, path: str, tensors: dict[str, Tensor]) -> Any:
    split = [(key, _split(item, owner, f"{path}/{key}".lstrip("/"), tensors)) for key, item in value.items()]
    if all(isinstance(key, str) and not key.startswith("$") for key in value):
        return dict(split)
    return {"$items": [[_split(key, owner, path, tensors), item] for key, item in split]}


def join_state(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the state that `split_state` made `tree` and `tensors` of.

    Raises:
        ValueError: A tree is none that `split_state` makes: it names a tensor that is not there, or
            a mark is malformed.
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
        raise ValueError(f"{mark!r} in a state stands for nothing: {str(error)[:_SHOWN]}") from error


def _join_tensor(name: Any, tensors: dict[str, Tensor]) -> Tensor:
    return tensors[name]


def _join_float(text: Any, _: dict[str, Tensor]) -> float:
    if text not in ("nan", "inf", "-inf"):
        raise ValueError(f"{str(text)[:_SHOWN]!r} is no number that JSON lacks")
    return float(text)


def _join_tuple(items: Any, tensors: dict[str, Tensor]) -> tuple[Any, ...]:
    return tuple(join_state(_list(items), tensors))


def _join_items(items: Any, tensors: dict[str, Tensor]) -> dict[Any, Any]:
    pairs = [_list(pair) for pair in _list(items)]
    return {join_state(key, tensors): join_state(item, tensors) for key, item in pairs}


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"found a {type(value).__name__} in a state, expected a list")
    return value


_JOINED = {"$tensor": _join_tensor, "$float": _join_float, "$tuple": _join_tuple, "$items": _join_items}
