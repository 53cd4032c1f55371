"""Samplers: the order of training samples, and training and all evaluation passes as one stream of tagged batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any, NamedTuple

import numpy as np
import torch

from noether.data.collators import Collator
from noether.data.dataset import AnyDataset, Batch, length_of
from noether.data.randomness import EVALUATION_EPOCH, LARGEST_SORTED, Bijection, BlockShuffle, mix, permutation
from noether.data.sampling import Sampling
from noether.errors import DataError, SpecError
from noether.kernel.names import did_you_mean
from noether.kernel.progress import NEVER, Intervals

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
        limit_batches: Most batches of a pass on each rank; None for all.
        tag: Mark of this consumer's batches, unique in the process.
    """

    dataset: AnyDataset
    batch_size: int | None = None
    collator: Collator | None = None
    key: str = ""
    limit_batches: int | None = None
    tag: int = field(default_factory=_tags.__next__, init=False)

    def samples_on(self, rank: int, world_size: int, batch_size: int) -> range:
        """Return the indices that this rank evaluates: over all ranks every sample once, in order, without padding.

        Args:
            rank: The rank.
            world_size: Number of ranks.
            batch_size: Samples in a batch if the consumer has no batch size; `limit_batches` counts these batches.
        """
        share, rest = divmod(length_of(self.dataset), world_size)
        first = rank * share + min(rank, rest)
        mine = range(first, first + share + (rank < rest))
        return mine if self.limit_batches is None else mine[: self.limit_batches * (self.batch_size or batch_size)]

    def batch_lengths(self, batch_size: int, *, rank: int = 0, world_size: int = 1) -> Iterator[int]:
        """Yield the number of samples in each batch of a pass, whatever the collator makes of them."""
        left, size = len(self.samples_on(rank, world_size, batch_size)), self.batch_size or batch_size
        while left > 0:
            yield min(size, left)
            left -= size

    def pass_length(self, batch_size: int, *, rank: int = 0, world_size: int = 1) -> int:
        """Return the number of batches of `batch_size` (or its own size) in a pass on this rank."""
        return -(-len(self.samples_on(rank, world_size, batch_size)) // (self.batch_size or batch_size))


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


_CHUNK = 4096  # batches cut at once: cheaper than one by one, and neither an epoch nor a pass holds a million views
_COMPUTED = 1 << 16  # samples whose places are computed at once: their 512 KiB stay in the processor's cache


def updates_per_epoch(
    samples: int, effective_batch_size: int, *, drop_last: bool = True, limit: int | None = None
) -> int:
    """Return the updates in one pass over the training set; samples that do not fill an update are left out.

    Without `drop_last`, they are filled up to one.

    Args:
        samples: Size of the training set.
        effective_batch_size: Samples in one update, over all ranks.
        drop_last: See `TrainingOrder`.
        limit: See `TrainingOrder`.

    Raises:
        DataError: if the training set is smaller than one effective batch.
    """
    if samples and not drop_last:
        updates = -(-samples // effective_batch_size)
        return updates if limit is None else min(updates, limit)
    if samples < effective_batch_size:
        raise DataError(
            f"the training set is too small: found {samples} samples, expected at least one effective batch of "
            f"{effective_batch_size}",
            hint=f"set effective_batch_size to at most {samples}" if samples else "check the path and the split",
        )
    updates = samples // effective_batch_size
    return updates if limit is None else min(updates, limit)


OPTIONS = ("shuffle", "drop_last", "seed")
"""The options of `TrainingOrder` that do not follow from a run: a trainer's `main_sampler_kwargs`."""


def order_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the order of training that a trainer was given.

    Raises:
        SpecError: if there is no such option.
    """
    for name in given:
        if name not in OPTIONS:
            raise SpecError(
                f"unknown option in main_sampler_kwargs: found {name!r}, expected {', '.join(OPTIONS)}."
                f"{did_you_mean(name, OPTIONS)}"
            )
    return dict(given)


@dataclass(frozen=True, slots=True)
class TrainingOrder:
    """The order of training, sliced by rank.

    The samples of an update are the same for every world size and every number of accumulation steps.

    Attributes:
        samples: Size of the training set.
        effective_batch_size: Samples in one update, over all ranks.
        batch_size: Samples in one forward pass on one rank; divides the rank's share of an update.
        seed: Seed of the run.
        rank: Rank of this process.
        world_size: Number of ranks.
        shuffle: Visit the samples in another order in each epoch; otherwise always from the first to the last.
        drop_last: Leave out samples that do not fill an update; otherwise fill it with the first samples of the epoch.
        block: Shuffle blocks of this many consecutive samples, see `BlockShuffle`; None for samples.
        limit: Most updates of an epoch, the first ones; None for all.
        repeats: Repeat the first update of epoch 0 for ever, its random numbers included; an epoch is one update then.
        sampling: Another order than each sample once, in place of `shuffle` and `block`; None for that.
    """

    samples: int
    effective_batch_size: int
    batch_size: int
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    shuffle: bool = True
    drop_last: bool = True
    block: int | None = None
    limit: int | None = None
    repeats: bool = False
    sampling: Sampling | None = None

    def __post_init__(self) -> None:
        share, rest = divmod(self.effective_batch_size, self.world_size)
        if rest or share % self.batch_size:
            raise DataError(
                f"wrong effective_batch_size: found {self.effective_batch_size}, expected a multiple of "
                f"{self.batch_size * self.world_size}, for batches of {self.batch_size} on {self.world_size} ranks"
            )
        updates_per_epoch(self.samples, self.effective_batch_size, drop_last=self.drop_last)

    @property
    def updates_per_epoch(self) -> int:
        """Updates in one epoch."""
        limit = 1 if self.repeats else self.limit
        return updates_per_epoch(self.samples, self.effective_batch_size, drop_last=self.drop_last, limit=limit)

    @property
    def accumulation_steps(self) -> int:
        """Forward passes in one update on each rank."""
        return self.effective_batch_size // self.world_size // self.batch_size

    def batches(self, epoch: int, first_update: int = 0) -> Iterator[torch.Tensor]:
        """Return this rank's batches of an epoch, beginning with those of its update `first_update`."""
        updates = self.updates_per_epoch
        if self.sampling is not None:
            size = updates * self.effective_batch_size
            return self._cut(self.sampling.order(size, self.effective_batch_size, self.seed, epoch), first_update)
        if self.samples > LARGEST_SORTED or (self.shuffle and self.block is not None):
            return self._computed(epoch, range(first_update, updates))
        order = permutation(self.samples, self.seed, epoch) if self.shuffle else torch.arange(self.samples)
        wanted = updates * self.effective_batch_size
        order = order.repeat(-(-wanted // self.samples))[:wanted] if wanted > self.samples else order[:wanted]
        return self._cut(order, first_update)

    def _cut(self, order: torch.Tensor, first_update: int) -> Iterator[torch.Tensor]:
        """Return this rank's batches of the samples of an epoch, from its update `first_update` on."""
        mine = order.view(-1, self.world_size, self.effective_batch_size // self.world_size)
        mine = mine[first_update:, self.rank].reshape(-1)
        chunks = torch.split(mine, self.batch_size * _CHUNK)
        return chain.from_iterable(torch.split(chunk, self.batch_size) for chunk in chunks)

    def _computed(self, epoch: int, updates: range) -> Iterator[torch.Tensor]:
        """Yield the batches of an order that is computed a part at a time and never held."""
        share, word = self.effective_batch_size // self.world_size, mix(self.seed, epoch)
        own = torch.arange(share) + self.rank * share
        order = Bijection(self.samples, word) if self.block is None else BlockShuffle(self.samples, self.block, word)
        at_once = max(1, _COMPUTED // share)
        for first in range(updates.start, updates.stop, at_once):
            starts = torch.arange(first, min(first + at_once, updates.stop)) * self.effective_batch_size
            places = (starts.unsqueeze(1) + own).reshape(-1) % self.samples
            yield from torch.split(order.at(places) if self.shuffle else places, self.batch_size)


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
        repeated = list(order.batches(0)) if order.repeats else None
        while update < self.end_update:
            epoch, done = (0, 0) if order.repeats else divmod(update, per_epoch)
            position = 0
            for indices in order.batches(epoch, done) if repeated is None else repeated:
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
        mine = consumer.samples_on(self.rank, self.world_size, self.batch_size)
        if not mine:
            return
        size = consumer.batch_size or self.batch_size
        for first in range(0, len(mine), size * _CHUNK):
            part = mine[first : first + size * _CHUNK]
            indices = torch.split(torch.arange(part.start, part.stop, part.step), size)
            for position, chunk in enumerate(indices, start=first // size):
                yield TaggedIndices(consumer.tag, EVALUATION_EPOCH, position, chunk)
