"""The callback `grad-norm`: norm of the gradients before clipping."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from noether.core.callbacks import PeriodicCallback
from noether.core.callbacks.base import CallBackBaseConfig
from noether.kernel.progress import UpdateCounter


class GradNormConfig(CallBackBaseConfig):
    """Settings of the `grad-norm` callback."""

    norm_type: float = Field(2.0, gt=0, description="Order of the norm over all gradients.")


class GradNormCallback(PeriodicCallback):
    """Logs `optim/grad_norm`, the norm of all gradients of the last update, unscaled and before clipping."""

    def __init__(self, callback_config: GradNormConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self.norm_type = callback_config.norm_type
        self.norm: Tensor | None = None

    def before_optimizer_step(self, *, update_counter: UpdateCounter, model: nn.Module) -> None:
        """Measure; the norm stays a tensor, since reading its number would wait for the device."""
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        self.norm = torch.nn.utils.get_total_norm(gradients, self.norm_type)

    def periodic_callback(self, *, interval_type: str, update_counter: UpdateCounter, **kwargs: Any) -> None:
        """Log the norm of the last update; nothing without training."""
        if self.norm is not None:
            self.writer.add_scalar("optim/grad_norm", self.norm, logger=self.logger, format_str=".3f")
