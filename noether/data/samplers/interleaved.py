"""InterleavedSampler: training and all evaluation passes as one sequence for one pool of workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from noether.data.randomness import EVALUATION_EPOCH
from noether.data.samplers.tagged import TRAINING, SamplerIntervalConfig, TaggedIndices
from noether.data.samplers.training_order import TrainingOrder
from noether.kernel.progress import NEVER

_CHUNK = 4096  # batches of a pass cut at once: a pass over any number of samples holds no more indices


class InterleavedSampler(torch.utils.data.Sampler[TaggedIndices]):
    """Yield the batches to load, in the order in which the training loop and its callbacks read them.

    After each update at which intervals of consumers fire come their whole passes: update and sample
    intervals in the order of `consumers`, then, at an epoch's last update, epoch intervals in that order. The
    intervals are the same pure functions that callbacks use, so that both sides always agree.

    Args:
        order: The order of training; None for evaluation only.
        consumers: Passes over data sets, at their intervals.
        batch_size: Samples in an evaluation batch on each rank, if the consumer has no batch size.
        rank: Rank of this process.
        world_size: Number of ranks.
        start_update: Completed updates after which the sequence begins.
        end_update: Completed updates at which the sequence ends; None for never.
        repeat_round: Begin with the passes of `start_update`, whose round an earlier session did not finish.
    """

    def __init__(
        self,
        order: TrainingOrder | None,
        consumers: Sequence[SamplerIntervalConfig] = (),
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        start_update: int = 0,
        end_update: int | None = None,
        repeat_round: bool = False,
    ) -> None:
        self.order = order
        self.consumers = tuple(consumers)
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.start_update = start_update
        self.end_update = NEVER if end_update is None else end_update
        self.repeat_round = repeat_round

    def __iter__(self) -> Iterator[TaggedIndices]:
        if self.order is not None:
            return self._training(self.order)
        return (indices for consumer in self.consumers for indices in self._pass(consumer))

    def _training(self, order: TrainingOrder) -> Iterator[TaggedIndices]:
        sizes = per_epoch, _ = order.updates_per_epoch, order.effective_batch_size
        update, last = self.start_update, order.accumulation_steps - 1
        make = tuple.__new__  # TaggedIndices(…) would be one call more, at every accumulation step
        if self.repeat_round and update > 0:
            yield from self._round(update, *sizes)
        due = self._next_due(update, *sizes)
        while update < self.end_update:
            epoch, done = divmod(update, per_epoch)
            position = 0
            for indices in order.batches(epoch, done):
                yield make(TaggedIndices, (TRAINING, epoch, position, indices))
                if position < last:
                    position += 1
                    continue
                position = 0
                update += 1
                if update == due:
                    yield from self._round(update, *sizes)
                    due = self._next_due(update, *sizes)
                if update == self.end_update:
                    return

    def _next_due(self, update: int, updates_per_epoch: int, effective_batch_size: int) -> int:
        dues = (one.next_due_update(update, updates_per_epoch, effective_batch_size) for one in self.consumers)
        return min(dues, default=NEVER)

    def _round(self, update: int, updates_per_epoch: int, effective_batch_size: int) -> Iterator[TaggedIndices]:
        for consumer in self.consumers:
            if consumer.fires_after_update(update, effective_batch_size):
                yield from self._pass(consumer)
        epoch, rest = divmod(update, updates_per_epoch)
        for consumer in self.consumers:
            if rest == 0 and consumer.fires_after_epoch(epoch):
                yield from self._pass(consumer)

    def _pass(self, consumer: SamplerIntervalConfig) -> Iterator[TaggedIndices]:
        mine = consumer.samples_on(self.rank, self.world_size)
        if not mine:
            return
        size = consumer.batch_size or self.batch_size
        for first in range(0, len(mine), size * _CHUNK):
            part = mine[first : first + size * _CHUNK]
            indices = torch.split(torch.arange(part.start, part.stop, part.step), size)
            for position, chunk in enumerate(indices, start=first // size):
                yield TaggedIndices(consumer.tag, EVALUATION_EPOCH, position, chunk)
