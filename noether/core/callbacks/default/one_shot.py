"""Base of callbacks that say something once, before training."""

from __future__ import annotations

from typing import Any, ClassVar

from noether.config.components import CallBackBaseConfig
from noether.core.callbacks.base import CallbackBase


class OneShotConfig(CallBackBaseConfig):
    """Settings of a callback without a schedule."""

    needs_interval: ClassVar[bool] = False


class OneShotCallback(CallbackBase):
    """Acts in `before_training` only.

    Args:
        callback_config: Has nothing to set but an id.
        **kwargs: What `CallbackBase` takes.
    """

    def __init__(self, callback_config: OneShotConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.callback_config = callback_config
