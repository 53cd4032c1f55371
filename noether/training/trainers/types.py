"""Loss results: values that `loss_compute` may return, and the TrainerResult that `train_step` returns."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from noether.errors import TrainingError

Count: TypeAlias = float | Tensor | Literal["sum"]
"""Number of the values that a loss is a mean of, in any unit; "sum" for a loss that is a sum over the batch."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A loss with the number of the values that it is a mean of.

    Several accumulation steps, or the batches of an evaluation, are put together by it, so that the result is that of
    all their samples as one batch. A loss without a count has to be a mean over the samples of its batch.

    Attributes:
        loss: The loss of one batch.
        count: Number of valid points, tokens or the like, possibly a tensor; or "sum".
    """

    loss: Tensor
    count: Count

    def __mul__(self, weight: float) -> Counted:
        """Return the loss times a weight, with the same count."""
        return Counted(self.loss * weight, self.count)

    __rmul__ = __mul__


LossResult: TypeAlias = (
    Tensor | Counted | list[Tensor | Counted | float] | dict[str, Tensor] | Mapping[str, Tensor | Counted | float]
)
"""One loss, several, or several with names; their sum is what is optimized."""


@dataclass(slots=True)
class TrainerResult:
    """Outcome of a forward pass with its loss.

    Attributes:
        total_loss: The scalar that is differentiated.
        losses_to_log: The named parts of it.
        additional_outputs: The `update_outputs` of callbacks.
        count: Number of the values that the total and its parts are means of, or counts of the parts by name, whose sum
            the total then is; None, or a part without a count, for a mean over the samples of the batch.
    """

    total_loss: Tensor
    losses_to_log: dict[str, Tensor] | None = None
    additional_outputs: dict[str, Any] | None = None
    count: Count | dict[str, Count] | None = None

    @classmethod
    def of(cls, losses: LossResult | tuple[LossResult, dict[str, Any]] | TrainerResult) -> TrainerResult:
        """Name and add up the losses that `loss_compute`, or a train step in place of a result, returned.

        Raises:
            TrainingError: if it contains no loss, or something else than losses; names the part.
        """
        outputs = None
        if type(losses) is not dict:  # named losses stay as they are, and this runs at every accumulation step
            if isinstance(losses, TrainerResult):
                return losses
            losses, outputs = _named(losses)
        total, count = None, None
        for name in losses:
            part = losses[name]
            if type(part) is not Tensor:
                losses, count = _tensors(losses)
                total = functools.reduce(operator.add, losses.values())
                break
            try:
                total = part if total is None else total + part
            except RuntimeError:
                check_total(part, losses)
                raise
        if total is None:
            raise _no_loss(losses)
        if type(total) is not Tensor or total.ndim:
            check_total(total, losses)
        if "total" in losses and len(losses) > 1:
            raise TrainingError(
                "wrong name of a loss: found 'total', which is the name of their sum",
                hint="give it another name",
            )
        return cls(total, losses, outputs, count)


class LossFacts:
    """Facts about the loss of a trainer, for callbacks and `noether plan`.

    Attributes:
        has_masks: True if a `mask` of a batch has its valid points: of a collator, or listed in target_properties.
        average: The values that the loss is a mean of, in words.
        ignore_index: Target class that the loss leaves out, and metrics with it; None without one.
    """

    has_masks = False
    average: str = "taken as a mean over samples, unless it returns Counted(loss, n)"
    ignore_index: int | None = None

    @classmethod
    def loss_names(cls, config: Any) -> tuple[str, ...] | None:
        """Return the names of the losses of this class's `train_step`, beside `total`; None if they are not known."""
        return None


def _named(losses: Any) -> tuple[dict[str, Any], dict[str, Any] | None]:
    outputs = None
    if isinstance(losses, tuple):
        if len(losses) != 2 or not isinstance(losses[1], Mapping | None):
            raise TrainingError(
                f"wrong losses of a batch: found a tuple of {', '.join(type(one).__name__ for one in losses)}, "
                "expected losses and a dict of further outputs",
                hint='return losses, {"name": value}; several losses are a list or a dict',
            )
        losses, outputs = losses
    if isinstance(losses, Tensor | Counted):
        return {"loss": losses}, outputs
    if isinstance(losses, list):
        return {f"loss_{index}": loss for index, loss in enumerate(losses)}, outputs
    if isinstance(losses, Mapping):
        return dict(losses), outputs
    raise _no_loss(losses)


def _no_loss(losses: Any) -> TrainingError:
    return TrainingError(
        f"wrong losses of a batch: found {losses!r}, expected at least one loss",
        hint="return a tensor, or a list or dict of tensors with at least one in it",
    )


def _tensors(losses: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Count] | None]:
    """Return losses as tensors with their counts; parts may be numbers, or have a count."""
    counts = {name: part.count for name, part in losses.items() if isinstance(part, Counted)}
    plain = {name: part.loss if isinstance(part, Counted) else part for name, part in losses.items()}
    device = next((part.device for part in plain.values() if isinstance(part, Tensor)), None)
    if device is None:
        check_total(next(iter(plain.values()), None), plain)
    return {name: as_loss(name, part, device) for name, part in plain.items()}, counts or None


def as_loss(name: str, part: Any, device: torch.device | None = None) -> Tensor:
    """Return a part of a loss as a tensor; a number, such as the 0.0 of a penalty that is switched off, is one.

    Raises:
        TrainingError: if it is neither a tensor nor a number; names it.
    """
    if isinstance(part, Tensor):
        return part
    if isinstance(part, Real) and not isinstance(part, bool):
        return torch.tensor(float(part), device=device)
    raise TrainingError(
        f"wrong type of the loss '{name}': found {type(part).__name__}, expected a tensor or a number",
        hint=f"return a tensor as '{name}', or leave it out; nested losses need names of their own",
    )


def detached(outputs: Any) -> Any:
    """Return additional outputs without their graphs; those that are None are left out, other values stay."""
    if isinstance(outputs, Tensor):
        return outputs.detach()
    if isinstance(outputs, Mapping):
        kept = {}
        for name in outputs:  # plain steps: this runs at every accumulation step
            value = outputs[name]
            if value is not None:
                kept[name] = value.detach() if type(value) is Tensor else detached(value)
        return kept
    return type(outputs)(map(detached, outputs)) if type(outputs) in (list, tuple) else outputs


def check_total(total: Any, losses: Mapping[str, Any] | None) -> None:
    """Refuse a total that cannot be differentiated; a subclass of Tensor can.

    Raises:
        TrainingError: if it is not a scalar tensor, or has no graph while gradients are enabled.
    """
    if not isinstance(total, Tensor):
        raise TrainingError(
            f"wrong type of the loss: found {type(total).__name__}, expected a tensor",
            hint="remove .item() and float() from the loss",
        )
    if total.ndim:
        shapes = {name: tuple(part.shape) for name, part in (losses or {}).items() if isinstance(part, Tensor)}
        found = ", ".join(f"'{name}' of {shape}" for name, shape in shapes.items() if shape)
        raise TrainingError(
            f"wrong shape of the loss: found {found or tuple(total.shape)}, expected one number for the batch",
            hint='reduce it, for example with .mean(), or reduction = "mean"',
        )


def check_graph(result: TrainerResult) -> None:
    """Refuse a total that does not depend on a parameter; called if its backward pass fails.

    Raises:
        TrainingError: if it does not; names the losses.
    """
    check_total(result.total_loss, result.losses_to_log)
    if not result.total_loss.requires_grad:
        names = ", ".join(f"'{name}'" for name in result.losses_to_log or ()) or "the total"
        raise TrainingError(
            f"loss without a graph: found {names}, on which no backward pass can begin, expected a loss that depends "
            "on a trainable parameter",
            hint="remove .detach(), torch.no_grad() and .data from model and loss, and do not freeze everything in use",
        )
