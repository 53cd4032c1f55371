"""`param-count`: how large the model is."""

from __future__ import annotations

from typing import Any, ClassVar

from noether.core.callbacks.base import CallbackBase
from noether.core.schemas.callbacks import CallBackBaseConfig
from noether.core.utils.training.counter import UpdateCounter


class ParameterCountConfig(CallBackBaseConfig):
    """Settings of the `param-count` callback."""

    needs_interval: ClassVar[bool] = False


class ParameterCountCallback(CallbackBase):
    """Logs `model/parameters` and `model/trainable_parameters` once, before training.

    Args:
        callback_config: Has nothing to set.
        **kwargs: What `CallbackBase` takes.
    """

    def __init__(self, callback_config: ParameterCountConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.callback_config = callback_config

    def before_training(self, *, update_counter: UpdateCounter) -> None:
        """Count and log."""
        parameters = list(self.model.parameters())
        trainable = sum(p.numel() for p in parameters if p.requires_grad)
        total = sum(p.numel() for p in parameters)
        self.logger.info("model %s: %s parameters, %s trainable", self.model.name, f"{total:,}", f"{trainable:,}")
        self.writer.add_scalar("model/parameters", total)
        self.writer.add_scalar("model/trainable_parameters", trainable)
