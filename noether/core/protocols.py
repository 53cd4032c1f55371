"""Protocols of upper floors: the few members that lower floors use of them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class StepResult(Protocol):
    """Return value of a train step, for readers of its losses."""

    total_loss: Tensor
    losses_to_log: dict[str, Tensor] | None
    additional_outputs: dict[str, Tensor] | None


class RunningTrainer(Protocol):
    """The members of a trainer that a callback may use.

    `applied` is 1.0 if the update that a `track_…` hook follows was applied, else 0.0: a 0-dim tensor on the device, to
    be multiplied with, or read. Before the last accumulation step of an update it is 1.0 if that accumulation step's
    loss is finite; before the first update it is None. `verdict` is the same as a bool if the host knows it, otherwise
    it is `applied`. `track_after_update_step` is not called for an update that the host knows was not applied.
    """

    config: Any
    device: torch.device
    update_counter: Any
    last_loss: Tensor | None
    applied: Tensor | None
    verdict: bool | Tensor | None
    precision: Any
    seconds: dict[str, float]
    batch_size: int
    path_provider: Any
    data_container: Any
    callbacks: Any

    def train_step(self, batch: dict[str, Tensor], model: torch.nn.Module) -> StepResult:
        """Run the forward pass and the loss on one batch."""

    def forward(self, batch: dict[str, Tensor], model: torch.nn.Module) -> Any:
        """Return the output of the model for a batch."""

    def to_device(self, batch: Any) -> Any:
        """Move a batch to the device of the run."""

    def autocast(self) -> AbstractContextManager[None]:
        """Return the precision context that training runs in."""

    def request_stop(self, reason: str) -> None:
        """End training at the next boundary, with a checkpoint."""

    def raise_if_stopped(self) -> None:
        """Interrupt an evaluation pass between two batches if a signal has arrived."""

    def stand_at(self, epoch: int, update: int, sample: int) -> None:
        """Set the counts of the run, for an evaluation of a checkpoint."""

    def check_state(self, checkpoint: Any, state: Any) -> None:
        """Refuse the state of a checkpoint that the run cannot go on from."""

    def restore_state(self, model: Any, checkpoint: Any, state: Any) -> None:
        """Go on from the state of a checkpoint, which was read whole."""
