"""Rounding to float32: numbers of a file that lose their variation are an error."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from noether.data.dataset import InMemoryDataset
from noether.errors import DataError

NOISE = 1e-12
"""Relative size of rounding errors in float64 that a computed column may have: one that varies less is constant."""


def single(values: Tensor) -> Tensor:
    """Return a tensor of float64 in float32, others as they are."""
    return values.to(torch.float32) if values.dtype == torch.float64 else values


def exact_ones(values: Mapping[str, Tensor], rounded: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of float64 that are not equal to their rounded form."""
    return {
        name: tensor
        for name, tensor in values.items()
        if tensor.dtype == torch.float64 and not torch.equal(rounded[name].double(), tensor)
    }


LARGEST_ERROR = 0.01
"""Largest error of rounding, as a share of the standard deviation."""


def require_kept(dataset: InMemoryDataset) -> InMemoryDataset:
    """Return the data set without its exact numbers.

    Raises:
        DataError: if rounding to float32 has made a column zero, infinite or constant, or nearly so.
    """
    for name, exact in dataset.exact.items():
        rows, lost = lost_columns(exact, dataset.properties[name])
        if lost.any():
            raise _lost(dataset, name, int(lost.nonzero()[0]), rows)
    if not dataset.exact:
        return dataset
    return InMemoryDataset(dataset.properties, dataset.config)


def lost_columns(exact: Tensor, rounded: Tensor) -> tuple[Tensor, Tensor]:
    """Return numbers as rows of columns, and True for each column that rounding has made zero, infinite or constant."""
    rows = exact.reshape(-1, exact.shape[-1] if exact.ndim > 1 else 1)
    apart = rounded.double().reshape(rows.shape) - rows
    deviation = rows.std(0, correction=0)
    varies = deviation > NOISE * rows.abs().amax(0)
    lost = varies & (apart.square().mean(0).sqrt() > LARGEST_ERROR * deviation)
    lost |= (rows != 0).any(0) & (apart == -rows).all(0)
    lost |= (apart.isinf() & rows.isfinite()).any(0)
    return rows, lost


def _lost(dataset: InMemoryDataset, name: str, place: int, rows: Tensor) -> DataError:
    columns = (getattr(dataset.config, "properties", None) or {}).get(name, name)
    column = columns if isinstance(columns, str) else columns[place]
    beside = "" if column == name else f" in property {name!r}"
    low, high = rows[:, place].aminmax()
    return DataError(
        f"the numbers of {column!r}{beside} are lost in float32: found {low:.17g} to {high:.17g}, expected numbers "
        "that differ by more than their rounding",
        hint='normalise them, which comes before rounding: [[transforms]] kind = "normalize", properties = '
        f'["{name}"]; or leave them out of `properties` of the data set',
    )
