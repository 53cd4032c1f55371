"""Callbacks that every run has by default."""

from noether.core.callbacks.default.dataset_stats import DatasetStatsCallback
from noether.core.callbacks.default.eta import EtaCallback
from noether.core.callbacks.default.learning_rate import LearningRateCallback
from noether.core.callbacks.default.online_loss import OnlineLossCallback
from noether.core.callbacks.default.parameter_count import ParameterCountCallback
from noether.core.callbacks.default.peak_memory import PeakMemoryCallback
from noether.core.callbacks.default.progress import ProgressCallback
from noether.core.callbacks.default.stability import TrainingStabilityCallback
from noether.core.callbacks.default.train_time import TrainTimeCallback

__all__ = [
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
