"""From what a callback calls a scalar to a Python float, with as few reads of the device as there can be."""

from __future__ import annotations

from collections.abc import MutableMapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from noether.errors import TrainingError


def own_scalar(key: str, value: Any) -> float | Tensor:
    """Return `value` as something that no later in-place change can reach.

    What is in the host's memory becomes a float. A tensor on an accelerator is copied there, which waits for
    nothing.

    Args:
        key: The metric's key, for the error.
        value: A number, or a tensor or array with one element.

    Raises:
        TrainingError: If it is no real scalar.
    """
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_complex():
            shape = tuple(value.shape)
            raise _no_scalar(key, f"a tensor of shape {shape} and type {value.dtype}")
        return float(value.item()) if value.is_cpu else value.detach().clone()
    if isinstance(value, Real):
        return float(value)
    if getattr(value, "size", None) == 1 and hasattr(value, "item"):  # an array with one element
        return own_scalar(key, value.item())
    raise _no_scalar(key, f"{value!r:.80} ({type(value).__name__})")


def read_scalars(values: MutableMapping[str, float | Tensor]) -> None:
    """Replace the tensors in `values` by floats, with one copy to the host for each device and type."""
    groups: dict[tuple[torch.device, torch.dtype], list[str]] = {}
    for key, value in values.items():
        if isinstance(value, Tensor):
            groups.setdefault((value.device, value.dtype), []).append(key)
    for keys in groups.values():
        stacked = torch.stack([values[key].reshape(()) for key in keys])  # type: ignore[union-attr]  # tensors all
        for key, number in zip(keys, stacked.tolist(), strict=True):
            values[key] = float(number)


def _no_scalar(key: str, found: str) -> TrainingError:
    return TrainingError(
        f"metric {key!r} must be a scalar, found {found}",
        hint="reduce it to one number first, for example with .mean(), or log it with add_nonscalar",
    )
