"""Callbacks: the base classes and those that need no more of a trainer than its protocol."""

from noether.core.callbacks.base import CallbackBase, CallBackBaseConfig
from noether.core.callbacks.checkpoint.interval import CheckpointCallback, CheckpointCallbackConfig
from noether.core.callbacks.periodic import PeriodicCallback, PeriodicDataIteratorCallback

__all__ = [
    "CallBackBaseConfig",
    "CallbackBase",
    "CheckpointCallback",
    "CheckpointCallbackConfig",
    "PeriodicCallback",
    "PeriodicDataIteratorCallback",
]
