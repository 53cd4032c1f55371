"""Parallel: ranks of a run, collective operations, and the rank that writes. No other module reads a rank."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from torch import Tensor, nn

from noether.errors import UsageError

WORLD_SIZE = "WORLD_SIZE"
"""Set by launchers such as torchrun: the number of processes that train together."""


class Parallel(Protocol):
    """Operations of a run that involve all of its ranks.

    Attributes:
        world: Number of ranks.
        rank: Number of this process, from 0.
        is_writer: True on the rank that writes metrics, checkpoints and the run folder.
    """

    @property
    def world(self) -> int:
        """Return the number of ranks."""

    @property
    def rank(self) -> int:
        """Return the number of this process, from 0."""

    @property
    def is_writer(self) -> bool:
        """Return True on the rank that writes metrics, checkpoints and the run folder."""

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the model as the forward pass calls it; called before weights are loaded and optimizers are built."""

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which backward passes do not exchange gradients: all accumulation steps but the last."""

    def reduce(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks."""

    def agree(self, stop: bool) -> bool:
        """Return True if any rank passed True."""

    def gather(self, value: Tensor) -> list[Tensor]:
        """Return the tensors of all ranks, in the order of ranks."""

    def barrier(self) -> None:
        """Wait for all ranks."""


class Single:
    """A run of one process: collective operations return their argument."""

    world = 1
    rank = 0
    is_writer = True

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the model itself."""
        return model

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return an empty context."""
        return nullcontext()

    def reduce(self, value: Tensor) -> Tensor:
        """Return the tensor itself."""
        return value

    def agree(self, stop: bool) -> bool:
        """Return the argument."""
        return stop

    def gather(self, value: Tensor) -> list[Tensor]:
        """Return the one tensor."""
        return [value]

    def barrier(self) -> None:
        """Return at once."""


def parallel_of(environment: Mapping[str, str] = os.environ) -> Parallel:
    """Return the ranks that a launcher has described in the environment.

    Raises:
        UsageError: if the environment asks for more than one rank, which this version cannot train with.
    """
    world = environment.get(WORLD_SIZE, "").strip() or "1"
    if world != "1":
        raise UsageError(
            f"wrong {WORLD_SIZE}: found {world}, expected 1, the only number of ranks that this version trains on",
            hint=f"start one process without torchrun, or unset {WORLD_SIZE}",
        )
    return Single()
