"""What travels through the loader: indices and batches that know whom they are for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from noether.data.dataset import Batch


class TaggedIndices(NamedTuple):
    """One batch to load.

    Attributes:
        tag: `TRAINING`, or the tag of a consumer.
        epoch: What seeds the samples, beside the seed of the run and their index.
        position: Accumulation step of a training batch; place in its pass of an evaluation batch. From 0.
        indices: int64, shape (batch,).
    """

    tag: int
    epoch: int
    position: int
    indices: torch.Tensor

    def __reduce__(self) -> tuple[Callable[..., TaggedIndices], tuple[Any, ...]]:
        # As an array: torch would move the order of the whole epoch to shared memory to send a slice of it.
        return _from_array, (self.tag, self.epoch, self.position, self.indices.numpy())


def _from_array(tag: int, epoch: int, position: int, indices: np.ndarray[Any, Any]) -> TaggedIndices:
    return TaggedIndices(tag, epoch, position, torch.from_numpy(indices))


class TaggedBatch(NamedTuple):
    """One loaded batch; `tag` and `position` are those of its `TaggedIndices`."""

    tag: int
    position: int
    batch: Batch
