"""Whether weights are numbers: looked at before every save, so it reads each value once and copies none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every value of every tensor is finite; waits for a device once, whatever the number of tensors."""
    extremes: dict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        plain = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
        if plain.numel() and plain.is_floating_point():
            extremes[plain.device, plain.dtype].extend(_extremes(plain))
    return all(bool(torch.stack(found).isfinite().all()) for found in extremes.values())


def _extremes(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return the smallest and the largest value: both are NaN where any value is."""
    return torch.aminmax(tensor.float() if tensor.dtype.itemsize == 1 else tensor)  # torch orders no floats of 8 bits
