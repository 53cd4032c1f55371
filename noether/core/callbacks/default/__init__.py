"""Callbacks that every run has by default; each is imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noether.core.callbacks.default.online_loss import OnlineLossCallback as OnlineLossCallback
    from noether.core.callbacks.default.reporters import DatasetStatsCallback as DatasetStatsCallback
    from noether.core.callbacks.default.reporters import EtaCallback as EtaCallback
    from noether.core.callbacks.default.reporters import LearningRateCallback as LearningRateCallback
    from noether.core.callbacks.default.reporters import ParameterCountCallback as ParameterCountCallback
    from noether.core.callbacks.default.reporters import PeakMemoryCallback as PeakMemoryCallback
    from noether.core.callbacks.default.reporters import ProgressCallback as ProgressCallback
    from noether.core.callbacks.default.reporters import TrainingStabilityCallback as TrainingStabilityCallback
    from noether.core.callbacks.default.reporters import TrainTimeCallback as TrainTimeCallback

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
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "online_loss" if name == "OnlineLossCallback" else "reporters"
    return getattr(import_module(f"{__name__}.{home}"), name)
