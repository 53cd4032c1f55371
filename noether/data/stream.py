"""Reading the one stream of batches: each reader gets its own, and never another's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from noether.data.dataset import Batch
from noether.data.samplers.interval import TRAINING, SamplerIntervalConfig
from noether.data.samplers.tagged import TaggedBatch
from noether.errors import TrainingError


def training_batches(stream: Iterable[TaggedBatch]) -> Iterator[Batch]:
    """Yield the training batches of `stream`, leaving out what a consumer did not read of its pass.

    Between two batches consumers may read their passes from the same `stream`.
    """
    for tag, _, batch in stream:
        if tag == TRAINING:
            yield batch


def evaluation_pass(
    stream: Iterator[TaggedBatch],
    consumer: SamplerIntervalConfig,
    batch_size: int,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Yield the batches of the consumer's next pass, leaving out what others did not read of theirs.

    Args:
        stream: What a `TrainingLoader` yields.
        consumer: Whose pass.
        batch_size: The one that the loader was built with.
        rank: This process's place among `world_size`.
        world_size: Number of processes.

    Raises:
        TrainingError: The stream holds no pass for this consumer at this point.
    """
    for position in range(consumer.pass_length(batch_size, rank=rank, world_size=world_size)):
        yield _next_of(stream, consumer.tag, position)


def _next_of(stream: Iterator[TaggedBatch], tag: int, position: int) -> Batch:
    for found in stream:
        if found.tag == tag and found.position == position:
            return found.batch
        if found.tag == TRAINING or position > 0:
            break
    raise TrainingError(
        "a callback asked for evaluation batches where the data stream has none for it: it ran outside of "
        "the intervals that it registered, or read its pass twice"
    )
