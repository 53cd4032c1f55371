"""Online callbacks: they follow training without a pass over data of their own."""

from noether.core.callbacks.online.additional_outputs import (
    TrackAdditionalOutputsCallback,
    TrackAdditionalOutputsCallbackConfig,
)
from noether.core.callbacks.online.best_metric import BestMetricCallback, BestMetricCallbackConfig

__all__ = [
    "BestMetricCallback",
    "BestMetricCallbackConfig",
    "TrackAdditionalOutputsCallback",
    "TrackAdditionalOutputsCallbackConfig",
]
