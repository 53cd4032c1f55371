"""Callbacks that request checkpoints."""

from noether.core.callbacks.checkpoint.ema import EmaCallback, EmaCallbackConfig
from noether.core.callbacks.checkpoint.saving import (
    BestCheckpointCallback,
    BestCheckpointCallbackConfig,
    CheckpointCallback,
    CheckpointCallbackConfig,
)

__all__ = [
    "BestCheckpointCallback",
    "BestCheckpointCallbackConfig",
    "CheckpointCallback",
    "CheckpointCallbackConfig",
    "EmaCallback",
    "EmaCallbackConfig",
]
