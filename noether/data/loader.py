"""TrainingLoader: one stream of batches for training and evaluation, with or without workers."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from noether.data.fetch import Fetch
from noether.data.samplers.interleaved import InterleavedSampler
from noether.data.samplers.tagged import TaggedBatch, TaggedIndices
from noether.data.worker_deaths import WORKER_DEATHS
from noether.data.workers import born_ignoring, end_by_killing, ignore_stop_signals, kill
from noether.errors import TrainingError

WORKER_TIMEOUT = 600.0
"""Seconds after which a worker that delivers nothing is an error; torch's default is to wait forever."""

_LOST = re.compile(
    r"DataLoader timed out|DataLoader worker \((?:pid\(s\)|pid) (?P<pid>[\d, ]+)\) (?P<end>[^.]*)", re.DOTALL
)
"""What torch says of workers that do not deliver."""

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
        timeout: Seconds to wait for a batch of a worker; None for `WORKER_TIMEOUT`.
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
        timeout: float | None = None,
    ) -> None:
        super().__init__(
            dataset,
            batch_size=None,  # the sampler asks for whole batches
            sampler=sampler,
            num_workers=num_workers,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            timeout=(timeout or WORKER_TIMEOUT) if num_workers else 0,
            worker_init_fn=ignore_stop_signals if num_workers else None,
            multiprocessing_context=start_method if num_workers else None,
            generator=torch.Generator(),  # its base seeds must not come from the global one
            prefetch_factor=(prefetch_factor or PREFETCH_FACTOR) if num_workers else None,
            persistent_workers=num_workers > 0,  # an evaluation loader is read again and again
        )

    def __iter__(self) -> Iterator[TaggedBatch]:  # type: ignore[override]  # torch promises its own
        if self.num_workers:
            with born_ignoring():
                from_workers: Any = super().__iter__()
            WORKER_DEATHS.watch()
            end_by_killing(from_workers._workers)
            return self._from_workers(from_workers)
        batches = self._in_this_process()
        return map(_pinned, batches) if self.pin_memory else batches

    def _in_this_process(self) -> Iterator[TaggedBatch]:
        """Do what `TaggedDataset` does, with fewer calls: this runs at every update."""
        assert isinstance(self.dataset, TaggedDataset), "torch knows it only as some data set"
        make, sources = tuple.__new__, self.dataset.sources
        for tag, epoch, position, indices in self.sampler:
            yield make(TaggedBatch, (tag, position, sources[tag](indices, epoch)))

    def _from_workers(self, batches: Any) -> Iterator[TaggedBatch]:
        """Yield all batches; an error forgets the frames of torch's iterator, its message has those of the worker.

        They hold the iterator in a reference cycle, whose collection closes the queues before the workers are told to
        stop, and then waits five seconds for them.
        """
        try:
            yield from WORKER_DEATHS.waiting_for(batches)
        except Exception as error:
            if lost := _LOST.match(str(error)) if isinstance(error, RuntimeError) else None:
                kill(batches._workers)  # one that hangs would be waited for
                batches._workers_done_event = threading.Event()  # of torch's own, a killed one may hold the lock
            raise (self._explained(lost) if lost else error.with_traceback(None)) from None

    def _explained(self, found: re.Match[str]) -> TrainingError:
        """Return what it means that a worker did not deliver."""
        if found["pid"] is None:
            return TrainingError(
                f"no worker has delivered a batch for {self.timeout:g} s: one hangs, or a batch takes as long",
                hint="raise `timeout` under [loader], or see with num_workers = 0 where loading stays",
            )
        return TrainingError(
            f"a worker that loads data is gone: process {found['pid']} {found['end']}",
            hint="killed ones have often run out of memory: lower num_workers or prefetch_factor under [loader]",
        )


def _pinned(tagged: TaggedBatch) -> TaggedBatch:
    tag, position, batch = tagged
    return TaggedBatch(tag, position, {name: tensor.pin_memory() for name, tensor in batch.items()})


def _as_it_is(batch: Any) -> Any:
    return batch
