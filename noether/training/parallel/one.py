"""Parallel: operations of a run that involve all of its ranks; and the run of one process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Parallel(Protocol):
    """Operations of a run that involve all of its ranks. Every rank calls the same ones, in the same order.

    Attributes:
        world: Number of ranks.
        rank: Number of this process, from 0.
        is_writer: True on the rank that writes metrics, checkpoints and the run folder: rank 0.
        local_world: Ranks on this machine.
        attempt: Restarts of the launcher so far.
        restarts: Most restarts.
    """

    local_world: int
    attempt: int
    restarts: int

    @property
    def world(self) -> int:
        """Return the number of ranks."""

    @property
    def rank(self) -> int:
        """Return the number of this process, from 0."""

    @property
    def is_writer(self) -> bool:
        """Return True on the rank that writes metrics, checkpoints and the run folder."""

    def builds_on(self, config: Any, device: torch.device) -> torch.device:
        """Return the device on which this rank builds the model: `meta` if it gets its values from rank 0.

        Args:
            config: The trainer's config.
            device: Device of the run.
        """

    def prepare(self, model: nn.Module, config: Any, device: torch.device) -> nn.Module:
        """Return the model as the forward pass calls it; called before weights are loaded and optimizers are built.

        Args:
            model: The model, on its device unless it will be sharded; its batch norms may become those of all ranks.
            config: The trainer's config, with `parallel`, `shard`, `reduce`, `find_unused_params` and `static_graph`.
            device: Device of the run.
        """

    def check(self, trainer: Any, model: Any) -> None:
        """Check that a trainer, its callbacks and optimizers built, can train a prepared model on these ranks."""

    def begin(self, model: nn.Module, seed: int) -> None:
        """Give all ranks the same weights and buffers, and each its own random numbers, before the first update."""

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which backward passes do not exchange gradients: all accumulation steps but the last."""

    def reduce(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks."""

    def vote(self, signal: int | None, stops: bool, *, now: bool) -> tuple[int | None, bool]:
        """Return the signal, and True for a stop, if any rank has passed one at this boundary or the one before.

        Args:
            signal: Number of a signal that this process has got.
            stops: True if it wants to end training.
            now: Wait for the votes of this boundary; otherwise those of the one before count.
        """

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in the order of ranks; each may be any object, its tensors on the CPU."""

    def share(self, value: T) -> T:
        """Return the value of the writer."""

    def on_hang(self, call: Callable[[], object]) -> None:
        """Call this, in a thread of its own, if another rank has waited in vain for this one."""

    def together(self) -> AbstractContextManager[None]:
        """Return a context for training, which all ranks end if none fails in it."""

    def report(self, error: BaseException) -> None:
        """Tell the other ranks the reason for which this one leaves."""


class Single:
    """A run of one process: collective operations return their argument.

    Args:
        attempt: Restarts of its launcher so far, if it has one.
        restarts: Most restarts.
    """

    world = local_world = 1
    rank = 0
    is_writer = True

    def __init__(self, attempt: int = 0, restarts: int = 0) -> None:
        self.attempt, self.restarts = attempt, restarts

    def builds_on(self, config: Any, device: torch.device) -> torch.device:
        """Return the device."""
        return device

    def prepare(self, model: nn.Module, config: Any, device: torch.device) -> nn.Module:
        """Return the model itself."""
        return model

    def check(self, trainer: Any, model: Any) -> None:
        """Do nothing."""

    def begin(self, model: nn.Module, seed: int) -> None:
        """Do nothing."""

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return an empty context."""
        return nullcontext()

    def reduce(self, value: Tensor) -> Tensor:
        """Return the tensor itself."""
        return value

    def vote(self, signal: int | None, stops: bool, *, now: bool) -> tuple[int | None, bool]:
        """Return the arguments."""
        return signal, stops

    def gather(self, value: T) -> list[T]:
        """Return the one value."""
        return [value]

    def share(self, value: T) -> T:
        """Return the value."""
        return value

    def on_hang(self, call: Callable[[], object]) -> None:
        """Do nothing: nobody waits."""

    def together(self) -> AbstractContextManager[None]:
        """Return an empty context."""
        return nullcontext()

    def report(self, error: BaseException) -> None:
        """Do nothing."""
