"""Early stoppers: callbacks that end training before its limit."""

from noether.core.callbacks.early_stoppers.fixed import FixedEarlyStopperCallback, FixedEarlyStopperCallbackConfig
from noether.core.callbacks.early_stoppers.metric import MetricEarlyStopperCallback, MetricEarlyStopperCallbackConfig
from noether.kernel.progress import EarlyStopIteration

__all__ = [
    "EarlyStopIteration",
    "FixedEarlyStopperCallback",
    "FixedEarlyStopperCallbackConfig",
    "MetricEarlyStopperCallback",
    "MetricEarlyStopperCallbackConfig",
]
