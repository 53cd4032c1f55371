"""Going over a data set once, outside of training: for statistics, and for a first look."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from noether.data.dataset import AnyDataset, Batch, gathering, length_of
from noether.data.fetch import fetch_of
from noether.data.randomness import EVALUATION_EPOCH
from noether.errors import DataError


def whole_batches(dataset: AnyDataset, *, batch_size: int = 1024, seed: int = 0) -> Iterator[Batch]:
    """Yield every sample once, in order, in batches; what a sample draws is the same at every call.

    A data set that gathers no batches is read one sample at a time, so that the samples may differ in shape.
    """
    fetch = fetch_of(dataset, seed)
    batch_size = batch_size if gathering(dataset) is not None else 1
    for indices in torch.split(torch.arange(length_of(dataset)), batch_size):
        if len(indices):
            yield fetch(indices, EVALUATION_EPOCH)


def first_sample(dataset: AnyDataset, *, seed: int = 0) -> dict[str, Tensor]:
    """Return the first sample, to read names and shapes from; no generator of the process moves.

    Raises:
        DataError: The data set is empty.
    """
    for batch in whole_batches(dataset, batch_size=1, seed=seed):
        return {name: values[0] for name, values in batch.items()}
    raise DataError(f"{type(dataset).__name__} has no samples")
