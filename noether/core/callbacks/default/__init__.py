"""Callbacks that every run has by default; each is imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noether.core.callbacks.default.eta import EtaCallback as EtaCallback
    from noether.core.callbacks.default.online_loss import OnlineLossCallback as OnlineLossCallback
    from noether.core.callbacks.default.progress import ProgressCallback as ProgressCallback
    from noether.core.callbacks.default.resources import DatasetStatsCallback as DatasetStatsCallback
    from noether.core.callbacks.default.resources import ParameterCountCallback as ParameterCountCallback
    from noether.core.callbacks.default.resources import PeakMemoryCallback as PeakMemoryCallback
    from noether.core.callbacks.default.resources import TrainTimeCallback as TrainTimeCallback
    from noether.core.callbacks.default.stability import LearningRateCallback as LearningRateCallback
    from noether.core.callbacks.default.stability import TrainingStabilityCallback as TrainingStabilityCallback

_HOMES = {
    "DatasetStatsCallback": "resources",
    "EtaCallback": "eta",
    "LearningRateCallback": "stability",
    "OnlineLossCallback": "online_loss",
    "ParameterCountCallback": "resources",
    "PeakMemoryCallback": "resources",
    "ProgressCallback": "progress",
    "TrainTimeCallback": "resources",
    "TrainingStabilityCallback": "stability",
}
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


def __getattr__(name: str) -> Any:
    """Import a callback when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
