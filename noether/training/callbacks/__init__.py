"""Callbacks that evaluate the model on a whole data set, with the trainer's train step."""

from noether.training.callbacks.offline_loss import OfflineLossCallback, OfflineLossCallbackConfig
from noether.training.callbacks.offline_metrics import OfflineMetricsCallback, OfflineMetricsCallbackConfig

__all__ = [
    "OfflineLossCallback",
    "OfflineLossCallbackConfig",
    "OfflineMetricsCallback",
    "OfflineMetricsCallbackConfig",
]
