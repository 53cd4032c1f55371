"""`noop`: no tracking; `kind = "noop"` turns tracking off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from noether.config.components import TrackerBaseConfig
from noether.metrics.metrics_file import MetricRecord
from noether.metrics.tracker import BaseTracker, RunDescription, RunStatus


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
