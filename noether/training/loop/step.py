"""One accumulation step, and the update that the last one of them makes."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from noether.core.models.base import ModelBase
from noether.kernel.progress import Stopwatch, UpdateCounter
from noether.optim.model_optimizer import ModelOptimizer
from noether.training.loop.finite import FiniteGuard
from noether.training.loop.masking import step_masked
from noether.training.loop.precision import Precision
from noether.training.trainers.types import TrainerResult

# torch.set_grad_enabled is a context manager that also works as a call, at four times the price of what it calls.
_set_grad_enabled = torch._C._set_grad_enabled

StepOutcome = tuple[dict[str, Tensor], dict[str, Tensor] | None, dict[str, Stopwatch]]


class UpdateStep:
    """Forward, backward, and on the last accumulation step the optimizer.

    This runs at every update, so it keeps to plain calls: no context is entered in float32, no string is built, and
    losses stay tensors.

    Args:
        train_step: The trainer's forward pass and loss.
        precision: Autocast and scaler.
        guard: Decides whether an update may be applied.
        update_counter: Handed to the hook.
    """

    def __init__(
        self,
        train_step: Callable[[Any, torch.nn.Module], TrainerResult],
        precision: Precision,
        guard: FiniteGuard,
        update_counter: UpdateCounter,
    ) -> None:
        self.train_step = train_step
        self.precision = precision
        self.guard = guard
        self.update_counter = update_counter
        self.before_optimizer_step: Callable[..., Any] | None = None
        self._model: ModelBase | None = None
        self._optimizers: list[ModelOptimizer] = []
        self._torch_optimizers: list[torch.optim.Optimizer] = []
        self._parameters: list[torch.nn.Parameter] = []
        # Used again at every step: the loop reads them before the next one, and building them would cost more.
        self.forward_time, self.backward_time, self.update_time = Stopwatch(), Stopwatch(), Stopwatch()
        self.times = {
            "forward_time": self.forward_time,
            "backward_time": self.backward_time,
            "update_time": self.update_time,
        }

    def __call__(
        self,
        batch: Any,
        dist_model: torch.nn.Module,
        model: ModelBase,
        accumulation_steps_total: int,
        accumulation_step: int,
        retain_graph: bool = False,
    ) -> StepOutcome:
        """Run one accumulation step; see `BaseTrainer.update`."""
        started = perf_counter()
        were_enabled = torch.is_grad_enabled()
        _set_grad_enabled(True)  # the loop, hooks included, runs without gradients; only this does not
        try:
            if self.precision.dtype is None:
                result = self.train_step(batch, dist_model)
            else:
                with self.precision.autocast():
                    result = self.train_step(batch, dist_model)
            loss = result.total_loss if accumulation_steps_total == 1 else result.total_loss / accumulation_steps_total
            forwarded = perf_counter()
            scaler = self.precision.scaler
            scaled = loss if scaler is None else scaler.scale(loss)
            scaled.backward(retain_graph=retain_graph)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        finally:
            _set_grad_enabled(were_enabled)
        propagated = perf_counter()
        total = result.total_loss.detach()
        if accumulation_step == accumulation_steps_total - 1:
            self._apply(model, total)
        else:
            self.guard.keep(total)
        losses = {"total": total}
        if result.losses_to_log:
            for name in result.losses_to_log:
                part = result.losses_to_log[name]
                losses[name] = total if part is result.total_loss else part.detach()
        outputs = result.additional_outputs
        if outputs:
            outputs = {name: output.detach() for name, output in outputs.items()}
        self.forward_time.started_at = started
        self.forward_time.elapsed_seconds = forwarded - started
        self.backward_time.elapsed_seconds = propagated - forwarded
        self.update_time.elapsed_seconds = perf_counter() - propagated
        return losses, outputs, self.times

    def adopt(self, model: ModelBase) -> None:
        """Remember what belongs to a model, so that no update has to collect it."""
        self._model = model
        self._optimizers = list(model.optimizers().values())
        self._parameters = [parameter for optimizer in self._optimizers for parameter in optimizer.parameters]
        self._torch_optimizers = [optimizer.torch_optimizer for optimizer in self._optimizers]
        self.guard.adopt(self._torch_optimizers)

    def _apply(self, model: ModelBase, loss: Tensor) -> None:
        """Clip and apply the gradients where they are finite, and release them in any case."""
        if model is not self._model:
            self.adopt(model)
        scaler = self.precision.scaler
        if scaler is not None:
            for optimizer in self._optimizers:
                if optimizer.has_gradients:
                    scaler.unscale_(optimizer.torch_optimizer)
        if self.before_optimizer_step is not None:
            self.before_optimizer_step(self.update_counter, model)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        guard = self.guard
        if guard.admits(loss, gradients, scaler):
            if guard.mask is None:
                model.optimizer_step(scaler)
            else:
                step_masked(model, self._torch_optimizers, guard.mask)
        if scaler is not None and gradients:
            scaler.update()
        model.optimizer_zero_grad()
