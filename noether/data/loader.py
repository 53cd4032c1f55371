"""TrainingLoader: one stream of batches for training and evaluation, with worker processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.utils.data._utils.pin_memory import pin_memory

from noether.data.dataset import Batch
from noether.data.fetch import Fetch
from noether.data.samplers import TRAINING, InterleavedSampler, SamplerIntervalConfig, TaggedBatch, TaggedIndices
from noether.data.staging import staged_batches, staged_requests
from noether.data.workers import (
    CHECK_EVERY,
    GUARD,
    STARTED_BY_US,
    UNGUARDED,
    WORKER_DEATHS,
    Failure,
    WorkerLostError,
    begin_worker,
    end_by_killing,
    ended_how,
    kill,
    starting,
)
from noether.errors import TrainingError, UsageError
from noether.kernel.participant import not_by_a_hook
from noether.metrics.device import Device


def evaluation_pass(
    stream: Iterable[TaggedBatch],
    consumer: SamplerIntervalConfig,
    batch_size: int,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Yield the batches of the consumer's next pass, skipping the unread rest of other passes.

    Args:
        stream: The iterator of a `TrainingLoader`.
        consumer: The consumer.
        batch_size: Batch size of the loader.
        rank: Rank of this process.
        world_size: Number of ranks.

    Raises:
        TrainingError: if the stream has no pass for this consumer at this point.
    """
    tagged = iter(stream)
    for position in range(consumer.pass_length(batch_size, rank=rank, world_size=world_size)):
        yield _next_of(tagged, consumer.tag, position)


def _next_of(stream: Iterator[TaggedBatch], tag: int, position: int) -> Batch:
    for found in stream:
        if found.tag == tag and found.position == position:
            return found.batch
        if found.tag == TRAINING or position > 0:
            break
    raise TrainingError(
        "no evaluation batches for a callback: found the end of its pass, or an update outside of its intervals",
        hint="read the batches in a round in which its interval fires, once",
    )


_LOG = logging.getLogger("noether.data")
WORKER_TIMEOUT = 600.0
"""Seconds after which a worker that delivers nothing is an error; torch's default is to wait forever."""

PREFETCH_FACTOR = 4
"""Batches that each worker prepares ahead; with torch's 2 it runs dry where evaluation follows training."""


class TaggedDataset(torch.utils.data.Dataset[TaggedBatch]):
    """Load each requested batch from the data set of its tag; a worker holds one.

    Args:
        sources: Functions that load batches, by tag.
    """

    def __init__(self, sources: Mapping[int, Fetch]) -> None:
        self.sources = dict(sources)

    def __getitem__(self, request: TaggedIndices) -> TaggedBatch:
        tag, epoch, position, indices = request
        try:
            return TaggedBatch(tag, position, self.sources[tag](indices, epoch))
        except Exception as error:
            if torch.utils.data.get_worker_info() is None:
                raise
            return TaggedBatch(tag, position, Failure(error))


class TrainingLoader(torch.utils.data.DataLoader[TaggedBatch]):
    """Load the batches of an `InterleavedSampler`, in its order.

    Without workers, iterating is a plain generator; with workers, it is torch's own machinery on one pool
    that serves training and evaluation alike. Neither draws from the generators of the training process.

    Args:
        dataset: The data sets by tag.
        sampler: The order of batches.
        num_workers: Worker processes; 0 loads in the training process.
        prefetch_factor: Batches that each worker prepares ahead; None for `PREFETCH_FACTOR`.
        pin_memory: Put batches in page-locked memory, for the copy to an accelerator.
        start_method: Start method of worker processes: `fork`, `forkserver` or `spawn`; None for Python's default.
        timeout: Seconds to wait for a batch of a worker; None for `WORKER_TIMEOUT`.
        device: Batches are copied there ahead of their use; None to leave them on the host.
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
        device: Device | None = None,
    ) -> None:
        self.device = device
        super().__init__(
            dataset,
            batch_size=None,  # the sampler asks for whole batches
            sampler=sampler,
            num_workers=num_workers,
            collate_fn=_unchanged,
            pin_memory=pin_memory and torch.accelerator.is_available(),  # torch would warn at every epoch
            timeout=(timeout or WORKER_TIMEOUT) if num_workers else 0,
            worker_init_fn=begin_worker if num_workers else None,
            multiprocessing_context=start_method if num_workers else None,
            generator=torch.Generator(),  # its base seeds must not come from the global one
            prefetch_factor=(prefetch_factor or PREFETCH_FACTOR) if num_workers else None,
            persistent_workers=num_workers > 0,  # an evaluation loader is read again and again
        )

    def __iter__(self) -> Iterator[TaggedBatch]:  # type: ignore[override]  # torch promises its own
        if self.num_workers:
            context = self.multiprocessing_context or multiprocessing.get_context()
            with starting(context.get_start_method()):
                from_workers: Any = super().__iter__()
            WORKER_DEATHS.watch(from_workers._workers)
            end_by_killing(from_workers._workers)
            from_workers._timeout = min(self.timeout, CHECK_EVERY)
            loaded = self._from_workers(from_workers)
            return loaded if self.device is None else staged_batches(loaded, self.device)
        if self.device is not None:
            assert isinstance(self.dataset, TaggedDataset), "torch declares it as any data set"
            return staged_requests(iter(self.sampler), self.dataset.sources, self.device)
        batches = self._in_this_process()
        return map(_pinned, batches) if self.pin_memory else batches

    def _in_this_process(self) -> Iterator[TaggedBatch]:
        """Load batches as `TaggedDataset` does, with fewer calls, because this runs at every update."""
        assert isinstance(self.dataset, TaggedDataset), "torch declares it as any data set"
        make, sources = tuple.__new__, self.dataset.sources
        for tag, epoch, position, indices in self.sampler:
            yield make(TaggedBatch, (tag, position, sources[tag](indices, epoch)))

    def _from_workers(self, batches: Any) -> Iterator[TaggedBatch]:
        """Yield all batches; an error forgets the frames of torch's iterator, its message has those of the worker.

        They hold the iterator in a reference cycle, whose collection closes the queues before it stops the workers, and
        then waits five seconds for them.
        """
        try:
            for tagged in WORKER_DEATHS.waiting_for(batches, self.timeout):
                if type(tagged.batch) is Failure:
                    raise tagged.batch.taken()
                yield tagged
        except WorkerLostError as lost:
            _abandon(batches)
            raise not_by_a_hook(_explained(lost)) from lost.__cause__
        except Exception as error:
            is_late = isinstance(error, RuntimeError) and str(error).startswith("DataLoader timed out")
            if is_late:
                _abandon(batches)
            # No name for it: the frame would hold the error, and the error the frame.
            raise not_by_a_hook(_too_slow(self.timeout) if is_late else error.with_traceback(None)) from error.__cause__


def _abandon(batches: Any) -> None:
    """Kill the workers, and let torch not wait for them: one may hang, and a killed one may hold the event's lock."""
    kill(batches._workers)
    batches._workers_done_event = threading.Event()


def _too_slow(timeout: float) -> TrainingError:
    return TrainingError(
        f"loading is too slow: found no batch of a worker within {timeout:g} s, expected one",
        hint="raise `timeout` under [loader], or find the cause with num_workers = 0",
    )


def _explained(lost: WorkerLostError) -> TrainingError:
    """Return the error for workers that have ended."""
    if any(worker.exitcode == UNGUARDED for worker in lost.workers):
        unguarded = TrainingError(
            "the script begins a run again when a worker process imports it: found a call of Noether at its top "
            'level, expected it inside of `if __name__ == "__main__":`',
            hint=GUARD,
        )
        _LOG.error("%s", unguarded)  # a script may look at nothing but the status of its run
        return unguarded
    ends = "; ".join(f"process {worker.pid} {ended_how(worker)}" for worker in lost.workers)
    was_killed = any((worker.exitcode or 0) < 0 for worker in lost.workers)
    return TrainingError(
        f"a worker process of the loader has ended before its batches: {ends}",
        hint="if it was killed for memory, lower num_workers or prefetch_factor under [loader]"
        if was_killed
        else "code of the data has ended it; num_workers = 0 under [loader] shows where",
    )


def _pinned(tagged: TaggedBatch) -> TaggedBatch:
    """Pin the tensors of a batch, which may hold other values or be of any type, as torch does for workers."""
    return tagged._replace(batch=pin_memory(tagged.batch))  # type: ignore[no-untyped-call]


def _sent_generator(generator: torch.Generator) -> tuple[Any, ...]:
    """Reduce a generator for a worker; torch's own way shares the memory of a state that is gone before it starts."""
    return _received_generator, (str(generator.device), generator.get_state().numpy().tobytes())


def _received_generator(device: str, state: bytes) -> torch.Generator:
    return torch.Generator(device).set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))


ForkingPickler.register(torch.Generator, _sent_generator)


def _unchanged(batch: Any) -> Any:
    return batch


def refuse_import_by_worker() -> None:
    """Refuse to begin a run while a new worker process imports the script of the run that starts it.

    A worker of ours ends quietly: the run that has started it reports it once.

    Raises:
        UsageError: if another process than one of ours is being started.
    """
    if not getattr(multiprocessing.current_process(), "_inheriting", False):
        return
    if STARTED_BY_US in os.environ:
        os._exit(UNGUARDED)
    raise UsageError("a run begins while a new process imports the script, expected it in the first one", hint=GUARD)
