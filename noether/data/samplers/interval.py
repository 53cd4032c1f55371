"""SamplerIntervalConfig: which data set a consumer wants to see whole, and when."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

from noether.data.collate import Collator
from noether.data.dataset import AnyDataset, length_of
from noether.kernel.intervals import Intervals

TRAINING = 0
"""The tag of training batches; consumers have tags from 1 on."""

_tags = count(TRAINING + 1)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SamplerIntervalConfig(Intervals):
    """Asks the data stream for passes over `dataset` at the given intervals.

    Whoever makes one reads its passes with `noether.data.stream.evaluation_pass`.

    Attributes:
        dataset: What a pass goes over, in order.
        batch_size: Samples in a batch on each rank; None for the one that the loader was built with.
        collator: Makes batches out of samples; None for the default.
        tag: Marks this consumer's batches; no two consumers of a process share one.
    """

    dataset: AnyDataset
    batch_size: int | None = None
    collator: Collator | None = None
    tag: int = field(default_factory=_tags.__next__, init=False)

    def samples_on(self, rank: int, world_size: int) -> range:
        """Return the indices that this rank evaluates: over all ranks every sample once, without padding."""
        return range(rank, length_of(self.dataset), world_size)

    def pass_length(self, batch_size: int, *, rank: int = 0, world_size: int = 1) -> int:
        """Return how many batches of at most `batch_size` (or its own size) a pass has on this rank."""
        return -(-len(self.samples_on(rank, world_size)) // (self.batch_size or batch_size))
