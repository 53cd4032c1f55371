"""Protocols of upper floors: the few members that lower floors use of them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class RunningTrainer(Protocol):
    """The members of a trainer that a callback may use.

    `applied` is 1.0 if the update that a `track_…` hook follows was applied, else 0.0: a 0-dim tensor on the device, to
    be multiplied with, or read. Before the last accumulation step of an update it is 1.0 if that accumulation step's
    loss is finite; before the first update it is None. `verdict` is the same as a bool if the host knows it, otherwise
    it is `applied`. `track_after_update_step` is not called for an update that the host knows was not applied.

    `parallel` has the ranks of the run, see `noether.checkpoint.shards.Ranked`. Losses and results of evaluations are
    those of all ranks already.

    `batch_size` is that of one accumulation step on one rank, and an update has `accumulation_steps` of them.
    `precision.grad_scale` is the scale of the gradients between accumulation steps, on the device once there was an
    update; None without a scaler.

    `loss_weights` has the weights of the losses of the last accumulation step in a mean over several steps, by name:
    the number of values that each is a mean of. It is None if all steps weigh the same. Without an entry `total`, the
    mean of the total is the sum of the others.
    """

    config: Any
    device: torch.device
    update_counter: Any
    last_loss: Tensor | None
    applied: Tensor | None
    verdict: bool | Tensor | None
    has_masks: bool
    loss_weights: dict[str, float | Tensor | None] | None
    precision: Any
    parallel: Any
    seconds: dict[str, float]
    batch_size: int
    accumulation_steps: int
    path_provider: Any
    data_container: Any
    callbacks: Any

    @property
    def ignore_index(self) -> int | None:
        """Return the target class that the loss leaves out."""

    def train_step(self, batch: dict[str, Tensor], model: torch.nn.Module) -> Any:
        """Run the forward pass and the loss on one batch."""

    def forward(self, batch: dict[str, Tensor], model: torch.nn.Module) -> Any:
        """Return the output of the model for a batch."""

    def to_device(self, batch: Any) -> Any:
        """Move a batch to the device of the run."""

    def autocast(self) -> AbstractContextManager[None]:
        """Return the precision context that training runs in."""

    def request_stop(self, reason: str) -> None:
        """End training at the next boundary, with a checkpoint."""

    def unfreeze(self, pattern: str, *, lr: float | None = None, weight_decay: float | None = None) -> list[str]:
        """Let frozen parameters train from the next update on."""

    def raise_if_stopped(self) -> None:
        """Interrupt an evaluation pass between two batches if a signal has arrived."""

    def stand_at(self, epoch: int, update: int, sample: int) -> None:
        """Set the counts of the run, for an evaluation of a checkpoint."""

    def check_state(self, checkpoint: Any, state: Any) -> None:
        """Refuse the state of a checkpoint that the run cannot go on from."""

    def restore_state(self, model: Any, checkpoint: Any, state: Any) -> None:
        """Go on from the state of a checkpoint, which was read whole."""
