"""Callbacks that need a trainer's step."""

from noether.training.callbacks.offline_loss import OfflineLossCallback, OfflineLossCallbackConfig
from noether.training.callbacks.offline_metrics import OfflineMetricsCallback, OfflineMetricsCallbackConfig

__all__ = [
    "OfflineLossCallback",
    "OfflineLossCallbackConfig",
    "OfflineMetricsCallback",
    "OfflineMetricsCallbackConfig",
]
