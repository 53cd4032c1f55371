"""Arrays, histograms and tables of a run, as one line of JSON each in `nonscalars.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from noether.core.protocols import Progress
from noether.core.trackers.record import spell_number
from noether.errors import TrainingError


def own_nonscalar(key: str, value: Any) -> Any:
    """Return a copy of `value` that no later in-place change can reach; tensors stay on their device.

    Args:
        key: Its name, for the error.
        value: Numbers, strings, tensors and arrays, and lists and dicts of them.

    Raises:
        TrainingError: If it holds something that JSON cannot say.
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
        f"the non-scalar {key!r} holds a {type(value).__name__}, which cannot be logged",
        hint="add_nonscalar takes numbers, strings, tensors, arrays, and lists and dicts of them",
    )


def encode_nonscalar(at: Progress, time: float, key: str, value: Any) -> bytes:
    """Return the line of one value: position and time as in `metrics.jsonl`, then `key` and `value`."""
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
