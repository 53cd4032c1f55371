"""What a loss may return, and what a train step makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from noether.errors import TrainingError

LossResult: TypeAlias = Tensor | list[Tensor] | dict[str, Tensor]
"""One loss, several, or several with names; their sum is what is optimized."""


@dataclass(slots=True)
class TrainerResult:
    """Outcome of a forward pass with its loss.

    Attributes:
        total_loss: What is differentiated, a scalar.
        losses_to_log: The named parts of it.
        additional_outputs: What callbacks get as `update_outputs`.
    """

    total_loss: Tensor
    losses_to_log: dict[str, Tensor] | None = None
    additional_outputs: dict[str, Tensor] | None = None

    @classmethod
    def of(cls, losses: LossResult | tuple[LossResult, dict[str, Tensor]]) -> TrainerResult:
        """Name and add up what `loss_compute` returned.

        Raises:
            TrainingError: There is no loss in it.
        """
        outputs = None
        if isinstance(losses, tuple):
            losses, outputs = losses
        if isinstance(losses, Tensor):
            return cls(losses, {"loss": losses}, outputs)
        if isinstance(losses, list):
            losses = {f"loss_{index}": loss for index, loss in enumerate(losses)}
        return cls(_total(losses), losses, outputs)


def _total(losses: Any) -> Tensor:
    if not isinstance(losses, dict) or not losses:
        raise TrainingError(
            f"loss_compute returned {losses!r}",
            hint="return a tensor, or a list or dict of tensors with at least one in it",
        )
    parts = iter(losses.values())
    total: Tensor = next(parts)
    for part in parts:
        total = total + part
    return total
