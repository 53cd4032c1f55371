"""Trackers: delivery of metrics to a tracking server. Importing this package imports no tracking library."""

from noether.core.trackers.noop import NoopTracker, NoopTrackerConfig
from noether.metrics.feed import TrackerFeed
from noether.metrics.metrics_file import MetricRecord
from noether.metrics.results import Result
from noether.metrics.tracker import (
    BaseTracker,
    RunDescription,
    RunStatus,
    TrackerError,
    TrackerRefusedError,
    TrackerSettingError,
)

__all__ = [
    "BaseTracker",
    "MetricRecord",
    "NoopTracker",
    "NoopTrackerConfig",
    "Result",
    "RunDescription",
    "RunStatus",
    "TrackerError",
    "TrackerFeed",
    "TrackerRefusedError",
    "TrackerSettingError",
]
