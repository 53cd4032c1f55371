"""Loss results: values that `loss_compute` may return, and the TrainerResult that `train_step` returns."""

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
        total_loss: The scalar that is differentiated.
        losses_to_log: The named parts of it.
        additional_outputs: The `update_outputs` of callbacks.
    """

    total_loss: Tensor
    losses_to_log: dict[str, Tensor] | None = None
    additional_outputs: dict[str, Tensor] | None = None

    @classmethod
    def of(cls, losses: LossResult | tuple[LossResult, dict[str, Tensor]]) -> TrainerResult:
        """Name and add up the losses that `loss_compute` returned.

        Raises:
            TrainingError: if it contains no loss.
        """
        outputs = None
        if type(losses) is not dict:  # named losses stay as they are, and this runs at every accumulation step
            losses, outputs = _named(losses)
        total = None
        for name in losses:
            part = losses[name]
            total = part if total is None else total + part
        if total is None:
            raise _no_loss(losses)
        if type(total) is not Tensor or total.ndim:
            _check_total(total)
        if "total" in losses and len(losses) > 1:
            raise TrainingError(
                "wrong name of a loss: found 'total', which is the name of their sum",
                hint="give it another name",
            )
        return cls(total, losses, outputs)


def _named(losses: Any) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    outputs = None
    if isinstance(losses, tuple):
        losses, outputs = losses
    if isinstance(losses, Tensor):
        return {"loss": losses}, outputs
    if isinstance(losses, list):
        return {f"loss_{index}": loss for index, loss in enumerate(losses)}, outputs
    if isinstance(losses, dict):
        return losses, outputs
    raise _no_loss(losses)


def _no_loss(losses: Any) -> TrainingError:
    return TrainingError(
        f"wrong result of loss_compute: found {losses!r}, expected at least one loss",
        hint="return a tensor, or a list or dict of tensors with at least one in it",
    )


def _check_total(total: Any) -> None:
    """Refuse a total that cannot be differentiated; a subclass of Tensor can."""
    if not isinstance(total, Tensor):
        raise TrainingError(
            f"wrong type of the loss: found {type(total).__name__}, expected a tensor",
            hint="remove .item() and float() from the loss",
        )
    if total.ndim:
        raise TrainingError(
            f"wrong shape of the loss: found {tuple(total.shape)}, expected one number for the batch",
            hint='reduce it, for example with .mean(), or reduction = "mean"',
        )
