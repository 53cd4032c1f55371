"""What the arrays of a data file look like, for a spec that is written for them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from noether.data.sources.columns import Columns
from noether.errors import DataError
from noether.spec.scaffold import Property


def facts_of(path: Path, columns: Columns) -> tuple[int, dict[str, Property]]:
    """Return how many samples a file has, and the shape and type of each array's part of one.

    Raises:
        DataError: The arrays are not of one length, or hold numbers that are not finite.
    """
    lengths = {name: len(values) if values.ndim else 0 for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        found = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise DataError(f"{path}: every array needs one entry for each sample, found {found or 'no array'}")
    for name, values in columns.items():
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            count = int((~torch.isfinite(values)).sum())
            raise DataError(f"{path}: {name!r} holds values that are not finite ({count} of {values.numel()})")
    return next(iter(lengths.values())), {name: _property(values) for name, values in columns.items()}


def _property(values: Tensor) -> Property:
    shape = tuple(values.shape[1:])
    if values.is_floating_point():
        return Property(shape, float)
    if values.dtype == torch.bool:
        return Property(shape, bool)
    is_label = shape == () and len(values) > 0 and int(values.min()) >= 0
    return Property(shape, int, int(values.max()) + 1 if is_label else None)
