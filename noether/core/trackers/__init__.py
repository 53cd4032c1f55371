"""Trackers: how metrics leave a run. Importing this package imports no tracking library."""

from noether.core.trackers.base import BaseTracker, RunDescription, RunStatus
from noether.core.trackers.errors import TrackerError, TrackerRefusedError
from noether.core.trackers.feed import TrackerFeed
from noether.core.trackers.flatten import flatten_params
from noether.core.trackers.noop import NoopTracker, NoopTrackerConfig
from noether.core.trackers.record import MetricRecord

__all__ = [
    "BaseTracker",
    "MetricRecord",
    "NoopTracker",
    "NoopTrackerConfig",
    "RunDescription",
    "RunStatus",
    "TrackerError",
    "TrackerFeed",
    "TrackerRefusedError",
    "flatten_params",
]
