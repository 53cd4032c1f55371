"""The tracker that keeps nothing: `kind = "noop"` turns tracking off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from noether.config.components import TrackerBaseConfig
from noether.metrics.metrics_file import MetricRecord
from noether.metrics.tracker import BaseTracker, RunDescription, RunStatus


class NoopTrackerConfig(TrackerBaseConfig):
    """Nothing to configure: the metrics stay in the run's `metrics.jsonl` alone."""


class NoopTracker(BaseTracker):
    """Tracks nothing; the run's own files are complete without a tracker.

    Args:
        tracker_config: Its table in the spec; may be left out where a tracker is built by hand.
    """

    wants_metrics: ClassVar[bool] = False

    def __init__(self, tracker_config: NoopTrackerConfig | None = None) -> None:
        super().__init__(tracker_config or NoopTrackerConfig())

    def open(self, run: RunDescription) -> None:
        """Open nothing."""

    def log_metrics(self, records: Sequence[MetricRecord]) -> None:
        """Keep nothing."""

    def close(self, status: RunStatus, error: str | None) -> None:
        """Close nothing."""

    @property
    def description(self) -> str:
        """Say that there is no tracker to look at."""
        return "no tracker: the metrics are in the run's metrics.jsonl"
