"""Callbacks: the base classes and the callbacks that use a trainer through its protocol only."""

from typing import TYPE_CHECKING, Any

from noether.config.components import PeriodicDataIteratorCallbackConfig
from noether.core.callbacks import default
from noether.core.callbacks.base import CallbackBase, CallBackBaseConfig
from noether.core.callbacks.checkpoint.ema import EmaCallback, EmaCallbackConfig
from noether.core.callbacks.checkpoint.saving import (
    BestCheckpointCallback,
    BestCheckpointCallbackConfig,
    CheckpointCallback,
    CheckpointCallbackConfig,
)
from noether.core.callbacks.early_stoppers import (
    FixedEarlyStopperCallback,
    FixedEarlyStopperCallbackConfig,
    MetricEarlyStopperCallback,
    MetricEarlyStopperCallbackConfig,
)
from noether.core.callbacks.online import (
    BestMetricCallback,
    BestMetricCallbackConfig,
    TrackAdditionalOutputsCallback,
    TrackAdditionalOutputsCallbackConfig,
)
from noether.core.callbacks.periodic import PeriodicCallback, PeriodicDataIteratorCallback
from noether.kernel.progress import EarlyStopIteration

if TYPE_CHECKING:
    from noether.core.callbacks.default import *  # noqa: F403

__all__ = [
    "BestCheckpointCallback",
    "BestCheckpointCallbackConfig",
    "BestMetricCallback",
    "BestMetricCallbackConfig",
    "CallBackBaseConfig",
    "CallbackBase",
    "CheckpointCallback",
    "CheckpointCallbackConfig",
    "EarlyStopIteration",
    "EmaCallback",
    "EmaCallbackConfig",
    "FixedEarlyStopperCallback",
    "FixedEarlyStopperCallbackConfig",
    "MetricEarlyStopperCallback",
    "MetricEarlyStopperCallbackConfig",
    "PeriodicCallback",
    "PeriodicDataIteratorCallback",
    "PeriodicDataIteratorCallbackConfig",
    "TrackAdditionalOutputsCallback",
    "TrackAdditionalOutputsCallbackConfig",
]
__all__ += default.__all__


def __getattr__(name: str) -> Any:
    """Import a default callback when it is first used."""
    if name not in default.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(default, name)
