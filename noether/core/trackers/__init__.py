"""Trackers: delivery of metrics to a tracking server; `noop` turns it off. Imports no tracking library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from noether.config.components import TrackerBaseConfig
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


class NoopTrackerConfig(TrackerBaseConfig):
    """Config of the `noop` tracker; it has no fields, as metrics stay in the run's `metrics.jsonl` only."""


class NoopTracker(BaseTracker):
    """Track nothing; the run's own files are complete without a tracker.

    Args:
        tracker_config: Config from the spec; optional for a tracker that is built by hand.
    """

    wants_metrics: ClassVar[bool] = False

    def __init__(self, tracker_config: NoopTrackerConfig | None = None) -> None:
        super().__init__(tracker_config or NoopTrackerConfig())

    def open(self, run: RunDescription) -> None:
        """Do nothing."""

    def log_metrics(self, records: Sequence[MetricRecord]) -> None:
        """Do nothing."""

    def close(self, status: RunStatus, error: str | None) -> None:
        """Do nothing."""

    @property
    def description(self) -> str:
        """Text for the user: there is no tracker."""
        return "no tracker: the metrics are in the run's metrics.jsonl"
