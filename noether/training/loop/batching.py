"""From the effective batch size to the batch of one forward pass: integers in, integers out."""

from __future__ import annotations

from dataclasses import dataclass

from noether.errors import SpecError


@dataclass(frozen=True, slots=True)
class Batching:
    """How one update is cut into forward passes on one rank.

    Attributes:
        effective_batch_size: Samples of an update over all ranks.
        batch_size: Samples of one forward pass.
        accumulation_steps: Forward passes of an update.
    """

    effective_batch_size: int
    batch_size: int
    accumulation_steps: int


def plan_batches(
    effective_batch_size: int,
    *,
    max_batch_size: int | None = None,
    world_size: int = 1,
    accumulate: bool = True,
) -> Batching:
    """Cut an update into the fewest equal forward passes that fit.

    Args:
        effective_batch_size: Samples of an update over all ranks.
        max_batch_size: Most samples of one forward pass on one rank; None for no bound.
        world_size: Number of ranks.
        accumulate: Whether an update may need more than one forward pass.

    Raises:
        SpecError: The sizes do not divide, or accumulation is needed and not allowed.
    """
    per_rank, rest = divmod(effective_batch_size, world_size)
    if rest:
        raise SpecError(
            f"effective_batch_size = {effective_batch_size} does not divide by the {world_size} ranks",
            hint=f"use {max(per_rank, 1) * world_size}, or another multiple of {world_size}",
        )
    bound = min(max_batch_size or per_rank, per_rank)
    batch_size = next(size for size in range(bound, 0, -1) if per_rank % size == 0)
    if batch_size < per_rank and not accumulate:
        raise SpecError(
            f"max_batch_size = {max_batch_size} is below the {per_rank} samples of an update on each rank, "
            "and disable_gradient_accumulation is true",
            hint="raise max_batch_size, lower effective_batch_size, or allow accumulation",
        )
    return Batching(effective_batch_size, batch_size, per_rank // batch_size)
