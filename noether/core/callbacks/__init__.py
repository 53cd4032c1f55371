"""Callbacks: the base classes and the callbacks that use a trainer through its protocol only."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from noether.config.components import PeriodicDataIteratorCallbackConfig
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
    from noether.core.callbacks.default import (
        DatasetStatsCallback,
        EtaCallback,
        LearningRateCallback,
        OnlineLossCallback,
        ParameterCountCallback,
        PeakMemoryCallback,
        ProgressCallback,
        TrainingStabilityCallback,
        TrainTimeCallback,
    )

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
    "DatasetStatsCallback",
    "EtaCallback",
    "LearningRateCallback",
    "OnlineLossCallback",
    "ParameterCountCallback",
    "PeakMemoryCallback",
    "ProgressCallback",
    "TrainTimeCallback",
    "TrainingStabilityCallback",
]


def __getattr__(name: str) -> Any:
    """Import a default callback when it is first used."""
    default = import_module(f"{__name__}.default")
    if name not in default.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(default, name)
