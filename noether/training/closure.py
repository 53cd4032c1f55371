"""ClosureUpdate: an update whose optimizer evaluates the loss itself, several times, as LBFGS does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from noether.core.models.base import ModelBase
from noether.errors import SpecError
from noether.training.trainers.types import TrainerResult
from noether.training.update import StepOutcome, Update


class ClosureUpdate(Update):
    """An update with an optimizer that takes a closure; it has one batch and no scaler.

    The losses and outputs of callbacks are those of the first evaluation, and `before_optimizer_step` sees its
    gradients. If they are finite, the optimizer evaluates the same batch as often as it wants to.

    Args:
        update: The update that it takes the place of, with its settings.
        skips: True if non-finite updates are skipped.

    Attributes:
        plain: That update, for a model with another optimizer.

    Raises:
        SpecError: if a setting of the update cannot be kept.
    """

    def __init__(self, update: Update, *, skips: bool) -> None:
        _require_plain(update, skips=skips)
        self.plain = update
        super().__init__(update.train_step, update.precision, update.guard, to_device=update.to_device)
        self._batch: Any = None

    def follow(
        self,
        train_step: Callable[[Any, torch.nn.Module], TrainerResult],
        accumulate: Callable[..., StepOutcome] | None = None,
    ) -> None:
        """Set the train step.

        Raises:
            SpecError: if the trainer has an `update` of its own, which would not evaluate the loss again.
        """
        if accumulate is not None:
            raise _misfit("a trainer with an `update` of its own", "choose another optimizer or trainer")
        super().follow(train_step)

    def accumulate(
        self,
        batch: Any,
        dist_model: torch.nn.Module,
        model: ModelBase,
        accumulation_steps_total: int,
        accumulation_step: int,
        retain_graph: bool = False,
    ) -> StepOutcome:
        """Do the update; keep its batch for the optimizer's evaluations."""
        self._batch = batch
        try:
            return super().accumulate(
                batch, dist_model, model, accumulation_steps_total, accumulation_step, retain_graph
            )
        finally:
            self._batch = None

    def _apply(self, model: ModelBase, loss: Tensor) -> None:
        """Let the optimizer evaluate and step if the first evaluation is finite; release the gradients."""
        if model is not self._fitted:
            self._fit(model)
        if self._before_optimizer_step is not None:
            self._before_optimizer_step(model)
        if self.guard.admits(loss, [p.grad for p in self._parameters if p.grad is not None]):
            self._evaluate_and_step(model, loss)
            self.guard.admits(loss, list(map(torch.detach, self._parameters)))  # a line search may leave for infinity
        model.optimizer_zero_grad()

    def _evaluate_and_step(self, model: ModelBase, loss: Tensor) -> None:
        (optimizer,) = self._torch_optimizers
        knows_first = isinstance(optimizer, torch.optim.LBFGS)  # its first evaluation is at the present weights

        def closure() -> Tensor:
            nonlocal knows_first
            if knows_first:
                knows_first = False
                return loss
            model.optimizer_zero_grad()
            with torch.enable_grad(), self.precision.autocast():
                total = TrainerResult.of(self.train_step(self._batch, self._dist_model or model)).total_loss
                total.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            return total.detach()

        optimizer.step(closure)  # type: ignore[arg-type]  # torch's type is that of a closure that returns a float


def _require_plain(update: Update, *, skips: bool) -> None:
    """Refuse settings that need gradients to be evaluated once, and in one place."""
    settings = {
        'precision = "float16"': (update.precision.scaler is not None, 'set precision = "fp32" or "bf16"'),
        "gradient accumulation": (update.accumulation_steps > 1, "raise max_batch_size, or lower effective_batch_size"),
        "skip_nan_loss": (skips, "set skip_nan_loss = false"),
    }
    for setting, (found, hint) in settings.items():
        if found:
            raise _misfit(setting, hint)


def _misfit(setting: str, hint: str) -> SpecError:
    return SpecError(f"{setting} does not fit an optimizer that evaluates the loss several times an update", hint=hint)
