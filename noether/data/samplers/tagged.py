"""Consumers of the batch stream: their intervals, and indices and batches tagged with their consumer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch

from noether.data.collators import Collator
from noether.data.dataset import AnyDataset, Batch, length_of
from noether.kernel.progress import Intervals

TRAINING = 0
"""The tag of training batches; consumers have tags from 1 on."""

_tags = count(TRAINING + 1)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SamplerIntervalConfig(Intervals):
    """A request for passes of the data stream over `dataset` at the given intervals.

    The consumer reads its passes with `noether.data.loader.evaluation_pass`.

    Attributes:
        dataset: The data set of the passes.
        batch_size: Samples in a batch on each rank; None for the one that the loader was built with.
        collator: Makes batches of samples; None for the default.
        key: Key of the data set in messages; empty if it has none.
        tag: Mark of this consumer's batches, unique in the process.
    """

    dataset: AnyDataset
    batch_size: int | None = None
    collator: Collator | None = None
    key: str = ""
    tag: int = field(default_factory=_tags.__next__, init=False)

    def samples_on(self, rank: int, world_size: int) -> range:
        """Return the indices that this rank evaluates: over all ranks every sample once, without padding."""
        return range(rank, length_of(self.dataset), world_size)

    def batch_lengths(self, batch_size: int, *, rank: int = 0, world_size: int = 1) -> Iterator[int]:
        """Yield the number of samples in each batch of a pass, whatever the collator makes of them."""
        left, size = len(self.samples_on(rank, world_size)), self.batch_size or batch_size
        while left > 0:
            yield min(size, left)
            left -= size

    def pass_length(self, batch_size: int, *, rank: int = 0, world_size: int = 1) -> int:
        """Return the number of batches of `batch_size` (or its own size) in a pass on this rank."""
        return -(-len(self.samples_on(rank, world_size)) // (self.batch_size or batch_size))


_MOST_BYTES = 256 * 1024
"""Largest tensor that a worker sends through the pipe; shared memory takes 1 ms to open, and is faster above 1 MiB."""

_NUMPYS = frozenset(
    {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
    | {torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128}
)
"""Types that numpy has as well."""


class TaggedIndices(NamedTuple):
    """One batch to load.

    Attributes:
        tag: `TRAINING`, or the tag of a consumer.
        epoch: Epoch that seeds the samples, with the seed of the run and their index.
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
    batch: Batch | Any

    def __reduce__(self) -> tuple[Callable[..., TaggedBatch], tuple[Any, ...]]:
        # As arrays through the pipe: torch would open shared memory, and a socket to send it, for every tensor.
        return _from_arrays, (self.tag, self.position, _packed(self.batch))


def _packed(batch: Any) -> Any:
    """Return a batch as it is sent; a collator may return another type than a dict."""
    return {name: _sent(held) for name, held in batch.items()} if type(batch) is dict else batch


def _sent(held: Any) -> Any:
    """Return a property as it is sent: a small plain tensor as an array, everything else unchanged."""
    if type(held) is not torch.Tensor or held.dtype not in _NUMPYS or held.layout is not torch.strided:
        return held
    stays = held.requires_grad or held.device.type != "cpu" or held.numel() * held.element_size() > _MOST_BYTES
    return held if stays else held.numpy(force=True)


def _from_arrays(tag: int, position: int, packed: Any) -> TaggedBatch:
    if type(packed) is dict:
        for name, sent in packed.items():
            if type(sent) is np.ndarray:
                packed[name] = torch.from_numpy(sent)
    return TaggedBatch(tag, position, packed)
