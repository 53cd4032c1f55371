"""Making a batch out of samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from noether.data.dataset import Batch
from noether.errors import DataError

Collator = Callable[[Sequence[Mapping[str, Any]]], Batch]
"""Makes one batch out of the samples of a data set."""


def collate(samples: Sequence[Mapping[str, Any]]) -> Batch:
    """Stack samples along a new leading dimension, property by property.

    Numbers and numpy arrays become tensors.

    Raises:
        DataError: A sample is no mapping, lacks a property of the first one, or a property cannot be stacked.
    """
    for sample in samples:
        if not isinstance(sample, Mapping):
            raise DataError(
                f"a sample is a dict from property name to tensor, found {type(sample).__name__}",
                hint="return {'x': ..., 'y': ...} from the data set's __getitem__",
            )
    return {name: _stack(name, samples) for name in samples[0]}


def _stack(name: str, samples: Sequence[Mapping[str, Any]]) -> Tensor:
    try:
        return torch.stack([_tensor(sample[name]) for sample in samples])
    except KeyError:
        lacking = next(sample for sample in samples if name not in sample)
        raise DataError(f"one sample of the batch has no property {name!r}; it has {', '.join(lacking)}") from None
    except (RuntimeError, TypeError, ValueError) as error:
        raise DataError(_not_stackable(name, [sample[name] for sample in samples], error)) from error


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.as_tensor(value)


def _not_stackable(name: str, values: list[Any], error: Exception) -> str:
    shapes = {tuple(value.shape) for value in values if hasattr(value, "shape")}
    if len(shapes) > 1:
        found = ", ".join(str(shape) for shape in sorted(shapes))
        return (
            f"samples of one batch need equal shapes, but property {name!r} comes as {found}; pad it in a "
            "transform, or give the data set a collator"
        )
    return f"property {name!r} cannot be made a tensor from {type(values[0]).__name__}: {error}"
