"""The trackers of one run: opened while it is built, fed while it trains, closed with its status."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import copy_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from noether.checkpoint.commit import always_own
from noether.checkpoint.paths import PathProvider
from noether.errors import NoetherError, error_text
from noether.kernel.names import free_name
from noether.metrics.feed import TrackerFeed, feed_name, name_in_files, sync_command
from noether.metrics.tracker import BaseTracker, PackedModel, RunDescription, RunStatus, TrackerError

if TYPE_CHECKING:
    from noether.metrics.log import LogWriter
    from noether.training.signals import StopSignals

_AFTER_A_SIGNAL_S = 5.0
_LOOK_EVERY_S = 0.02


def until_stopped(work: Callable[[], object], signals: StopSignals) -> bool:
    """Run slow clean-up on a thread; abandon it soon after a stop signal, and at once after a second one.

    Args:
        work: Clean-up that a run can do without; abandoned, it continues until the process ends.
        signals: Stop signals of the run.

    Returns:
        True if it is done.

    Raises:
        Exception: if `work` raised it.
    """
    raised: list[BaseException] = []

    def noting_errors() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=copy_context().run, args=(noting_errors,), name="clean-up", daemon=True)
    thread.start()
    stopped_at: float | None = None
    while thread.is_alive():
        thread.join(_LOOK_EVERY_S)
        if signals.received is not None and stopped_at is None:
            stopped_at = time.monotonic()
        if signals.count > 1 or (stopped_at is not None and time.monotonic() - stopped_at > _AFTER_A_SIGNAL_S):
            break
    if raised:
        raise raised[0]
    return not thread.is_alive()


_LOG = logging.getLogger("noether.tracking")
_REQUIRED_PATIENCE_S = 30.0
_FLUSH_AFTER_A_SIGNAL_S = 5.0
"""Schedulers kill a process soon after they send it a signal."""


class Tracking:
    """Feeds the trackers of a run from its metrics file; one that wants no metrics is left alone.

    Args:
        trackers: The trackers of the spec.
        paths: Paths of the run.
        run: Description of the run for trackers.
        require_own: Raises `RunLostError` if the run is not that of this process any more.
        pack: Writes the trained model into an empty folder, for trackers that want it; None if there is none.
    """

    def __init__(
        self,
        trackers: Sequence[BaseTracker],
        paths: PathProvider,
        run: RunDescription,
        require_own: Callable[[], object] = always_own,
        pack: Callable[[Path], PackedModel] | None = None,
    ) -> None:
        self.paths = paths
        self._pack = pack
        self.feeds = [
            TrackerFeed(tracker, paths.metrics_path, run, name=name, require_own=require_own)
            for tracker, name in zip(trackers, tracker_names(map(feed_name, trackers)), strict=True)
            if tracker.wants_metrics
        ]

    def start(self) -> None:
        """Open all trackers in the background."""
        for feed in self.feeds:
            feed.start()

    def follow(self, log_writer: LogWriter) -> None:
        """Follow metrics and results of callbacks, and log the addresses of trackers once they are open.

        Training waits a few seconds for all trackers together.

        Raises:
            TrackerError: if a required tracker cannot be opened.
        """
        began = time.monotonic()
        for feed in self.feeds:
            patience = _REQUIRED_PATIENCE_S if feed.is_required else feed.tracker.patience_s
            if feed.wait_open(max(0.0, began + patience - time.monotonic())):
                _LOG.info("  %-9s %s", feed.name, feed.tracker.description)
            log_writer.on_written.append(feed.notify)

    def abandon(self) -> None:
        """Stop all deliveries: another process may work on the run now."""
        for feed in self.feeds:
            feed.abandon()

    def close(
        self, status: RunStatus, error: str | None, make_report: Callable[[], bytes | None] = lambda: None
    ) -> None:
        """Deliver the remaining metrics, end the run on the trackers, and log their addresses again.

        Every tracker has its `flush_timeout_s`, all at the same time. Ctrl-C ends the waiting and keeps the outcome.

        Args:
            status: The end of the run.
            error: Text of the error, for a run that failed.
            make_report: Makes the report, called if a tracker wants it.

        Raises:
            TrackerError: if the run finished and a tracker that is required, or is set wrongly, lacks something.
        """
        report = make_report() if any(feed.tracker.wants_report for feed in self.feeds) else None
        with TemporaryDirectory(prefix="noether-", ignore_cleanup_errors=True) as place:
            model = self._model(status, Path(place) / "model")
            for feed in self.feeds:
                feed.end(status, error, report, model)
            self._wait(status)

    def _model(self, status: RunStatus, folder: Path) -> PackedModel | None:
        """Pack the model of a finished run if a tracker wants it; it is left out with a warning if that fails."""
        if self._pack is None or status != "FINISHED" or not any(feed.tracker.wants_model for feed in self.feeds):
            return None
        return packed_or_none(self._pack, folder)

    def _wait(self, status: RunStatus) -> None:
        began = time.monotonic()
        for feed in self.feeds:
            try:
                feed.wait_closed(max(0.0, began + _flush_timeout(feed, status) - time.monotonic()))
            except KeyboardInterrupt:
                _LOG.warning("interrupted while waiting for the tracker %s", feed.name)
                began = float("-inf")
            if feed.has_everything:
                _LOG.info("  %-9s %s", feed.name, feed.tracker.description)
        lacking = [feed for feed in self.feeds if feed.is_required and not feed.has_everything]
        if lacking and status == "FINISHED":
            names = ", ".join(feed.name for feed in lacking)
            raise TrackerError(
                f"the run finished, but the tracker {names} lacks some of its metrics or results",
                hint=f"deliver the rest with: {sync_command(self.paths.run_path, lacking[0].tracker)}",
            )


def packed_or_none(pack: Callable[[Path], PackedModel], folder: Path) -> PackedModel | None:
    """Pack a model; warn and return None if it cannot be packed, for which no run fails."""
    folder.mkdir()
    try:
        return pack(folder)
    except Exception as error:  # code of plugins may raise anything
        text = error.message if isinstance(error, NoetherError) else error_text(error)
        hint = f" ({error.hint})" if isinstance(error, NoetherError) and error.hint else ""
        _LOG.warning("the model is not logged to trackers: %s%s", text, hint)
        return None


def tracker_names(wanted: Iterable[str]) -> list[str]:
    """Return a unique name for each tracker: `mlflow`, `mlflow-2`.

    Args:
        wanted: Their names or kinds, which may be equal.
    """
    names: list[str] = []
    for name in wanted:
        names.append(free_name(name_in_files(name), set(names)))
    return names


def _flush_timeout(feed: TrackerFeed, status: RunStatus) -> float:
    configured = feed.tracker.tracker_config.flush_timeout_s
    return min(configured, _FLUSH_AFTER_A_SIGNAL_S) if status == "KILLED" else configured


def flattened(tables: Mapping[str, Any]) -> dict[str, str]:
    """Return nested tables as one level of dotted keys with text values, the parameters of trackers."""
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
