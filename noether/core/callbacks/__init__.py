"""Callbacks: the base classes and the callbacks that use a trainer through its protocol only."""

from noether.config.components import PeriodicDataIteratorCallbackConfig
from noether.core.callbacks.base import CallbackBase, CallBackBaseConfig
from noether.core.callbacks.checkpoint.best import BestCheckpointCallback, BestCheckpointCallbackConfig
from noether.core.callbacks.checkpoint.ema import EmaCallback, EmaCallbackConfig
from noether.core.callbacks.checkpoint.interval import CheckpointCallback, CheckpointCallbackConfig
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
