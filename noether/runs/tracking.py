"""The trackers of one run: opened while it is assembled, fed while it trains, closed with its true status."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from noether.core.providers.path import PathProvider
from noether.core.trackers.base import BaseTracker, RunDescription, RunStatus
from noether.core.trackers.feed import TrackerFeed
from noether.core.writers.log import LogWriter

_LOG = logging.getLogger("noether.tracking")
OPEN_TIMEOUT_S = 30.0


class Tracking:
    """Feeds all trackers of a run from its metrics file.

    Args:
        trackers: As built from the spec.
        paths: Where the run keeps its files.
        run: What trackers are told about it.
    """

    def __init__(self, trackers: Sequence[BaseTracker], paths: PathProvider, run: RunDescription) -> None:
        self.paths = paths
        self.feeds = [TrackerFeed(tracker, paths.metrics_path, run) for tracker in trackers]

    def start(self) -> None:
        """Begin to open all trackers in the background."""
        for feed in self.feeds:
            feed.start()

    def follow(self, log_writer: LogWriter) -> None:
        """Be told of every line of metrics, and say where to look once the trackers are open.

        Raises:
            TrackerError: A required tracker cannot be opened.
        """
        for feed in self.feeds:
            if feed.wait_open(OPEN_TIMEOUT_S) and feed.tracker.wants_metrics:
                _LOG.info("%s: %s", feed.name, feed.tracker.description)
            log_writer.on_written.append(feed.notify)

    def close(self, status: RunStatus, error: str | None) -> None:
        """Deliver what is left, end the run on the trackers' side, and say again where to look."""
        for feed in self.feeds:
            feed.notify()
            missing = feed.close(status, error)
            if not missing and feed.is_open and feed.tracker.wants_metrics:
                _LOG.info("%s: %s", feed.name, feed.tracker.description)


def flattened(tables: Mapping[str, Any]) -> dict[str, str]:
    """Return nested tables as one level of dotted keys with text values, as trackers want parameters."""
    flat: dict[str, str] = {}
    _flatten(tables, "", flat)
    return flat


def _flatten(value: Any, path: str, flat: dict[str, str]) -> None:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            _flatten(item, f"{path}.{key}" if path else str(key), flat)
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            _flatten(item, f"{path}.{index}", flat)
    else:
        flat[path] = value if isinstance(value, str) else json.dumps(value)
