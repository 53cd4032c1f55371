"""Scalars and non-scalars: convert logged values to numbers and JSON with few device reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from noether.errors import TrainingError
from noether.kernel.progress import UpdateCounter
from noether.metrics.metrics_file import spell_number


def own_scalar(key: str, value: Any) -> float | Tensor:
    """Return `value` as a float or a tensor that no later in-place change can reach.

    A value in the host's memory becomes a float. A tensor on an accelerator is copied there, without waiting.

    Args:
        key: The metric key, for the error.
        value: A number, or a tensor or array with one element.

    Raises:
        TrainingError: if it is not a real scalar.
    """
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_complex():
            raise _not_a_scalar(key, f"a tensor of shape {tuple(value.shape)} and type {value.dtype}")
        return float(value.item()) if value.is_cpu else value.detach().clone()
    if isinstance(value, Real):
        return float(value)
    if getattr(value, "size", None) == 1 and hasattr(value, "item"):  # an array with one element
        return own_scalar(key, value.item())
    raise _not_a_scalar(key, f"{value!r:.80} ({type(value).__name__})")


def _not_a_scalar(key: str, found: str) -> TrainingError:
    return TrainingError(
        f"metric {key!r} cannot be logged: found {found}, expected a scalar",
        hint="reduce it to one number first, for example with .mean(), or log it with add_nonscalar",
    )


def read_scalars(values: MutableMapping[str, float | Tensor]) -> None:
    """Replace the tensors in `values` with floats, with one copy to the host for each device and type."""
    groups: dict[tuple[torch.device, torch.dtype], list[str]] = {}
    for key, value in values.items():
        if type(value) is not float and isinstance(value, Tensor):  # no call for most: a boundary may be every update
            groups.setdefault((value.device, value.dtype), []).append(key)
    for keys in groups.values():
        stacked = torch.stack([values[key].reshape(()) for key in keys])  # type: ignore[union-attr]  # tensors all
        for key, number in zip(keys, stacked.tolist(), strict=True):
            values[key] = float(number)


def own_nonscalar(key: str, value: Any) -> Any:
    """Return a copy of `value` that no later in-place change can reach; tensors stay on their device.

    Args:
        key: Its key, for the error.
        value: Numbers, strings, tensors and arrays, and lists and dicts of them.

    Raises:
        TrainingError: if it holds something that JSON cannot express.
    """
    if isinstance(value, Tensor):
        return value.detach().clone()
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(name): own_nonscalar(key, item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [own_nonscalar(key, item) for item in value]
    if hasattr(value, "tolist"):  # an array
        return value.tolist()
    raise TrainingError(
        f"non-scalar {key!r} cannot be logged: found a value of type {type(value).__name__} in it, "
        "expected numbers, strings, tensors, arrays, and lists and dicts of them",
        hint="convert it before add_nonscalar",
    )


def encode_nonscalar(at: UpdateCounter, time: float, key: str, value: Any) -> bytes:
    """Return the line of one value: counters and time as in `metrics.jsonl`, then `key` and `value`."""
    fields = {"update": at.update, "epoch": at.epoch, "sample": at.sample, "time": round(time, 3), "key": key}
    return json.dumps(fields | {"value": _as_json(value)}, allow_nan=False).encode() + b"\n"


def _as_json(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, float):
        return spell_number(value)
    if isinstance(value, dict):
        return {name: _as_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    return value
