"""TrainingLoader: one stream of batches for training and evaluation, with or without workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from noether.data.fetch import Fetch
from noether.data.samplers.interleaved import InterleavedSampler
from noether.data.samplers.tagged import TaggedBatch, TaggedIndices

WORKER_TIMEOUT = 600.0
"""Seconds after which a worker that delivers nothing is an error; torch's default is to wait forever."""

PREFETCH_FACTOR = 4
"""Batches that each worker prepares ahead; with torch's 2 it runs dry where evaluation follows training."""


class TaggedDataset(torch.utils.data.Dataset[TaggedBatch]):
    """Hands each request to the data set that its tag stands for; this is what a worker holds.

    Args:
        sources: How to load batches, by tag.
    """

    def __init__(self, sources: Mapping[int, Fetch]) -> None:
        self.sources = dict(sources)

    def __getitem__(self, request: TaggedIndices) -> TaggedBatch:
        tag, epoch, position, indices = request
        return TaggedBatch(tag, position, self.sources[tag](indices, epoch))


class TrainingLoader(torch.utils.data.DataLoader[TaggedBatch]):
    """Loads what an `InterleavedSampler` asks for, in its order.

    Without workers, iterating is a plain generator; with workers, it is torch's own machinery on one pool
    that serves training and evaluation alike. Neither draws from the generators of the training process.

    Args:
        dataset: Where batches come from.
        sampler: Which batches.
        num_workers: Worker processes; 0 loads in the training process.
        prefetch_factor: Batches that each worker prepares ahead; None for `PREFETCH_FACTOR`.
        pin_memory: Put batches in page-locked memory, for the copy to an accelerator.
        start_method: How worker processes are started: `fork`, `forkserver` or `spawn`; None for Python's default.
    """

    def __init__(
        self,
        dataset: TaggedDataset,
        sampler: InterleavedSampler,
        *,
        num_workers: int = 0,
        prefetch_factor: int | None = None,
        pin_memory: bool = False,
        start_method: str | None = None,
    ) -> None:
        super().__init__(
            dataset,
            batch_size=None,  # the sampler asks for whole batches
            sampler=sampler,
            num_workers=num_workers,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            timeout=WORKER_TIMEOUT if num_workers else 0,
            multiprocessing_context=start_method if num_workers else None,
            generator=torch.Generator(),  # its base seeds must not come from the global one
            prefetch_factor=(prefetch_factor or PREFETCH_FACTOR) if num_workers else None,
            persistent_workers=num_workers > 0,  # an evaluation loader is read again and again
        )

    def __iter__(self) -> Iterator[TaggedBatch]:  # type: ignore[override]  # torch promises its own
        if self.num_workers:
            return _without_torchs_frames(super().__iter__())
        batches = self._in_this_process()
        return map(_pinned, batches) if self.pin_memory else batches

    def _in_this_process(self) -> Iterator[TaggedBatch]:
        """Do what `TaggedDataset` does, with fewer calls: this runs at every update."""
        assert isinstance(self.dataset, TaggedDataset), "torch knows it only as some data set"
        make, sources = tuple.__new__, self.dataset.sources
        for tag, epoch, position, indices in self.sampler:
            yield make(TaggedBatch, (tag, position, sources[tag](indices, epoch)))


def _without_torchs_frames(batches: Iterator[TaggedBatch]) -> Iterator[TaggedBatch]:
    """Yield all batches; an error forgets the frames of torch's iterator, its message has those of the worker.

    They hold the iterator in a reference cycle, whose collection closes the queues before the workers are told to
    stop, and then waits five seconds for them.
    """
    try:
        yield from batches
    except Exception as error:
        raise error.with_traceback(None) from None


def _pinned(tagged: TaggedBatch) -> TaggedBatch:
    tag, position, batch = tagged
    return TaggedBatch(tag, position, {name: tensor.pin_memory() for name, tensor in batch.items()})


def _as_it_is(batch: Any) -> Any:
    return batch
