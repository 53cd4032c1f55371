"""What lower layers may ask of upper ones, as the few members that they really use."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Progress(Protocol):
    """Where a run stands: completed epochs, updates and samples."""

    epoch: int
    update: int
    sample: int


class Stateful(Protocol):
    """Something whose state belongs into a checkpoint."""

    def state_dict(self) -> dict[str, Any] | None:
        """Return the state, or None where there is none."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a state over."""


class StepResult(Protocol):
    """What a train step returns to those who only look at its losses."""

    total_loss: Tensor
    losses_to_log: dict[str, Tensor] | None
    additional_outputs: dict[str, Tensor] | None


class RunningTrainer(Protocol):
    """The members of a trainer that a callback may use."""

    config: Any
    device: torch.device
    update_counter: Any
    last_loss: Tensor | None
    precision: Any
    seconds: dict[str, float]
    batch_size: int

    def train_step(self, batch: dict[str, Tensor], model: torch.nn.Module) -> StepResult:
        """Run the forward pass and the loss on one batch."""

    def forward(self, batch: dict[str, Tensor], model: torch.nn.Module) -> Any:
        """Return what the model makes of a batch."""

    def to_device(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Move a batch to the device of the run."""

    def autocast(self) -> AbstractContextManager[None]:
        """Return the precision context that training runs in."""

    def request_stop(self, reason: str) -> None:
        """End training at the next boundary, with a checkpoint."""
