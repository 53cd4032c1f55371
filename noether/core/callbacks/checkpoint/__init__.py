"""Callbacks that ask for checkpoints."""

from noether.core.callbacks.checkpoint.interval import CheckpointCallback, CheckpointCallbackConfig

__all__ = ["CheckpointCallback", "CheckpointCallbackConfig"]
