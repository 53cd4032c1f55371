"""`lr` and `training-stability`: learning rates, and norms that show early that training is about to diverge."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import MetricFacts
from noether.core.callbacks.periodic import PeriodicCallback
from noether.core.models.base import ModelBase
from noether.kernel.progress import UpdateCounter
from noether.optim.kernels import strided, total_norm, whole


class LearningRateCallback(PeriodicCallback):
    """Log the learning rate of the last update as `optim/lr`, or as `optim/lr/{part}` for a composite model.

    ```toml
    [[trainer.callbacks]]
    kind = "lr"
    every_n_updates = 50
    ```
    """

    calls_model = False
    draws_in_rounds = False

    @classmethod
    def produced_metrics(cls, config: CallBackBaseConfig, facts: MetricFacts) -> tuple[str, ...]:
        """Return the keys that it logs."""
        return ("optim/lr", "optim/lr/*", "optim/grad_norm", "optim/grad_norm/*")

    def periodic_callback(self, **_: Any) -> None:
        """Log learning rates and gradient norms."""
        optimizers = self.model.optimizers()
        for name, optimizer in optimizers.items():
            self.writer.add_scalar("optim/lr" if len(optimizers) == 1 else f"optim/lr/{name}", optimizer.lr)
            if optimizer.last_grad_norm is not None:
                key = "optim/grad_norm" if len(optimizers) == 1 else f"optim/grad_norm/{name}"
                self.writer.add_scalar(key, optimizer.last_grad_norm)


class TrainingStabilityCallback(PeriodicCallback):
    """Log the gradient norm before clipping, the model norm and the scale of the gradient scaler.

    Keys are `stability/gradient_norm`, `stability/model_norm`, `stability/non_finite_gradients` and
    `stability/grad_scale`; the norms are Euclidean over all trainable parameters.

    ```toml
    [[trainer.callbacks]]
    kind = "training-stability"
    every_n_updates = 50
    ```

    Args:
        callback_config: The interval.
        **kwargs: Arguments of `PeriodicCallback`.
    """

    calls_model = False
    draws_in_rounds = False

    def __init__(self, callback_config: CallBackBaseConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self._due = -1
        self._seen: dict[str, Tensor] = {}

    @classmethod
    def produced_metrics(cls, config: CallBackBaseConfig, facts: MetricFacts) -> tuple[str, ...]:
        """Return the keys that it logs."""
        names = ("gradient_norm", "model_norm", "non_finite_gradients", "grad_scale")
        return tuple(f"stability/{name}" for name in names)

    def before_optimizer_step(self, *, update_counter: UpdateCounter, model: ModelBase) -> None:
        """Compute the norms in the update after which they are logged; they stay on the device."""
        if self._due <= update_counter.update:
            self._due = self.next_due_update(update_counter)
        if update_counter.update + 1 != self._due:
            return
        gradients = model.gradients()
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._seen = {"gradient_norm": total_norm(gradients), "model_norm": total_norm(parameters)}
        counts = [(~strided(gradient).isfinite()).sum() for gradient in gradients]
        self._seen["non_finite_gradients"] = whole(torch.stack(counts).sum()) if counts else torch.tensor(0)

    def state_dict(self) -> dict[str, Any] | None:
        """Return norms that may not be logged yet."""
        return {"seen": dict(self._seen)} if self._seen else None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore norms that may not be logged yet."""
        self._seen = dict(state_dict["seen"])

    def periodic_callback(self, **_: Any) -> None:
        """Log the norms of this update."""
        for name, value in self._seen.items():
            self.writer.add_scalar(f"stability/{name}", value)
        scale = self.trainer.precision.grad_scale
        if scale is not None:
            self.writer.add_scalar("stability/grad_scale", scale)
