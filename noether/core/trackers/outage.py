"""What a feed says about its tracker: one warning for each outage, one line when it is over."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

from noether.core.trackers.errors import TrackerError, TrackerRefusedError

_LOGGER = logging.getLogger(__name__)


class Outage:
    """Follows whether a tracker answers, and tells only when that changes.

    Args:
        name: The tracker's name in messages.
        metrics_path: Where all metrics are, whatever the tracker does.
    """

    def __init__(self, name: str, metrics_path: Path) -> None:
        self._name = name
        self._metrics_path = metrics_path
        self._down = False

    def begin(self, reason: Exception) -> None:
        """Warn that the tracker does not answer, unless that was said."""
        if self._down:
            return
        self._down = True
        next_step = "is not tried again" if isinstance(reason, TrackerRefusedError) else "goes on being tried"
        _LOGGER.warning(
            "tracker %s: %s. Training is not affected; the tracker %s; all metrics are in %s",
            self._name,
            in_one_line(reason),
            next_step,
            self._metrics_path,
        )

    def end(self, url: str | None) -> None:
        """Say that the tracker answers again, if it did not, and where to look."""
        if self._down:
            self._down = False
            _LOGGER.info("tracker %s answers again%s", self._name, f": {url}" if url else "")

    def lost(self, lines: int, files: int) -> None:
        """Warn about what is left when the run is over, and say how to deliver it later."""
        _LOGGER.warning(
            "tracker %s: the run ended before everything was delivered: %d metric lines, %d files and how it "
            "ended are missing there; all metrics are in %s. Deliver the rest later: noether tracker sync %s",
            self._name,
            lines,
            files,
            self._metrics_path,
            shlex.quote(str(self._metrics_path.parent)),
        )

    def note(self, message: str) -> None:
        """Warn about something that costs less than an outage."""
        _LOGGER.warning("tracker %s: %s", self._name, message)


def in_one_line(error: Exception) -> str:
    """Return what happened, and what to do about it, without line breaks."""
    text = str(error.message) if isinstance(error, TrackerError) else f"{type(error).__name__}: {error}"
    hint = f" ({error.hint})" if isinstance(error, TrackerError) and error.hint else ""
    return " ".join((text + hint).split())[:400]
