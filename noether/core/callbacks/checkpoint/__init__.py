"""Callbacks that request checkpoints."""

from noether.core.callbacks.checkpoint.best import BestCheckpointCallback, BestCheckpointCallbackConfig
from noether.core.callbacks.checkpoint.ema import EmaCallback, EmaCallbackConfig
from noether.core.callbacks.checkpoint.interval import CheckpointCallback, CheckpointCallbackConfig

__all__ = [
    "BestCheckpointCallback",
    "BestCheckpointCallbackConfig",
    "CheckpointCallback",
    "CheckpointCallbackConfig",
    "EmaCallback",
    "EmaCallbackConfig",
]
