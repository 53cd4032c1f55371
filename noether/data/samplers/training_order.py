"""TrainingOrder: the samples of each update, from integers to integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

from noether.data.randomness import LARGEST_SORTED, Bijection, BlockShuffle, mix, permutation
from noether.errors import DataError, SpecError
from noether.kernel.names import did_you_mean

_CHUNK = 4096  # batches cut at once: cheaper than one by one, and no million views at the start of an epoch
_COMPUTED = 1 << 16  # samples whose places are computed at once: their 512 KiB stay in the processor's cache


def updates_per_epoch(samples: int, effective_batch_size: int, *, drop_last: bool = True) -> int:
    """Return the updates in one pass over the training set; samples that do not fill an update are left out.

    Without `drop_last`, they are filled up to one.

    Raises:
        DataError: if the training set is smaller than one effective batch.
    """
    if samples and not drop_last:
        return -(-samples // effective_batch_size)
    if samples < effective_batch_size:
        raise DataError(
            f"the training set is too small: found {samples} samples, expected at least one effective batch of "
            f"{effective_batch_size}",
            hint=f"set effective_batch_size to at most {samples}" if samples else "check the path and the split",
        )
    return samples // effective_batch_size


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
        return updates_per_epoch(self.samples, self.effective_batch_size, drop_last=self.drop_last)

    @property
    def accumulation_steps(self) -> int:
        """Forward passes in one update on each rank."""
        return self.effective_batch_size // self.world_size // self.batch_size

    def batches(self, epoch: int, first_update: int = 0) -> Iterator[torch.Tensor]:
        """Return this rank's batches of an epoch, beginning with those of its update `first_update`."""
        updates = self.updates_per_epoch
        if self.samples > LARGEST_SORTED or (self.shuffle and self.block is not None):
            return self._computed(epoch, range(first_update, updates))
        order = permutation(self.samples, self.seed, epoch) if self.shuffle else torch.arange(self.samples)
        wanted = updates * self.effective_batch_size
        order = order.repeat(-(-wanted // self.samples))[:wanted] if wanted > self.samples else order[:wanted]
        mine = order.view(updates, self.world_size, -1)[first_update:, self.rank].reshape(-1)
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
