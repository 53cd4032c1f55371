"""TrackerFeed: the thread between a run and its tracker; training never waits for it."""

from __future__ import annotations

import logging
import random
import re
import shlex
import threading
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path

from noether.checkpoint.commit import RunLostError, always_own
from noether.errors import error_text
from noether.metrics.delivery import Delivery
from noether.metrics.tracker import (
    BaseTracker,
    PackedModel,
    RunDescription,
    RunStatus,
    TrackerError,
    TrackerRefusedError,
    TrackerSettingError,
)

_LOGGER = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 30.0
_LONGEST_REQUESTED_PAUSE_S = 600.0
_ATTEMPTS_AT_THE_END = 3
_RANDOM = random.Random()
"""For jitter; the global generator belongs to the training."""


class TrackerFeed:
    """Deliver a run's `metrics.jsonl` and `results.jsonl` to one tracker, on a daemon thread.

    The files are the only buffer: the thread reads on from the end of its last delivery, so an outage costs neither
    memory nor values. The position is kept in `spool/<name>.json` of the run folder; a later attempt at the run
    continues from there and sends nothing twice. Errors of the tracker are tried again, logged once for each outage,
    and never reach the caller, unless the tracker is `required`.

    Args:
        tracker: The tracker; from now on only this thread opens, feeds and closes it.
        metrics_path: The run's `metrics.jsonl`; it may not exist yet. A resume cuts it before the first `notify`.
        run: Description of the run, for opening the tracker.
        name: Name in messages and of the spool file; by default the tracker's kind.
        interval_s: Seconds for which new lines are gathered into one delivery.
        require_own: Raises `RunLostError` if the run is not that of this process any more: nothing more is delivered.
    """

    def __init__(
        self,
        tracker: BaseTracker,
        metrics_path: Path,
        run: RunDescription,
        *,
        name: str | None = None,
        interval_s: float = 1.0,
        require_own: Callable[[], object] = always_own,
    ) -> None:
        self.tracker = tracker
        self.name = feed_name(tracker, name)
        self._interval_s = interval_s
        self._run_dir = metrics_path.parent
        self._outage = Outage(self.name, metrics_path)
        spool_path = run.run_dir / "spool" / f"{self.name}.json"
        self._delivery = Delivery(tracker, metrics_path, run, spool_path, self._outage.note, require_own)
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._has_lines = False
        self._ending = threading.Event()
        self._settled = threading.Event()  # the first attempt to open has ended, either way
        self._abandoned = threading.Event()
        self._last_error: Exception | None = None
        self._end: tuple[RunStatus, str | None, bytes | None, PackedModel | None] = ("FINISHED", None, None, None)

    def start(self) -> None:
        """Open the tracker in the background; a tracker that wants no metrics gets no thread."""
        if self.tracker.wants_metrics:
            self._thread = threading.Thread(
                target=copy_context().run, args=(self._serve,), name=f"tracker-{self.name}", daemon=True
            )
            self._thread.start()

    def wait_open(self, timeout_s: float) -> bool:
        """Wait for the tracker to open; return True if it is open.

        Otherwise warn, and keep trying in the background.

        Raises:
            TrackerError: if it is `required` and could not be opened in time.
            TrackerSettingError: if the user has to change a setting.
        """
        if self._thread is None:
            return True
        self._settled.wait(timeout_s)
        if self.is_open:
            return True
        reason = self._last_error or TrackerError(f"no answer within {timeout_s:.3g} s")
        if isinstance(reason, TrackerSettingError):
            raise reason
        if self.is_required:
            raise TrackerError(
                f"the tracker {self.name!r} could not be opened: {in_one_line(reason)}",
                hint="start it, or continue without it: set `required = false` in its table",
            ) from self._last_error
        self._outage.begin(reason)
        return False

    @property
    def is_open(self) -> bool:
        """True once the tracker is open."""
        return self._delivery.is_open

    @property
    def has_everything(self) -> bool:
        """True if everything was delivered, the end of the run included."""
        return self._thread is None or self._delivery.is_closed

    @property
    def is_required(self) -> bool:
        """True if a run fails without the tracker: the spec says so, or the user has to change a setting."""
        return self.tracker.tracker_config.required or isinstance(self._last_error, TrackerSettingError)

    def notify(self, metrics: object = None) -> None:
        """Notify the thread that the metrics file has grown. Sets an event and returns.

        Args:
            metrics: The metrics of the new line, which the thread reads from the file.

        Raises:
            TrackerError: if the tracker is `required` and has refused for good, or the user has to change a setting.
        """
        self._has_lines = True
        self._wake.set()
        if self.is_required and isinstance(self._last_error, TrackerRefusedError):
            raise TrackerError(
                f"the required tracker {self.name!r} has refused: {in_one_line(self._last_error)}",
                hint="repair it and resume the run, or set `required = false` in its table",
            ) from self._last_error

    def end(
        self,
        status: RunStatus,
        error: str | None = None,
        report: bytes | None = None,
        model: PackedModel | None = None,
    ) -> None:
        """Announce the end of the run, and return; delivery goes on in the background.

        Args:
            status: The end of the run.
            error: Text of the error, for a run that failed.
            report: The report of the run, for a tracker that wants one.
            model: The trained model, for a tracker that wants it.
        """
        self._end = (status, error, report, model)
        self._has_lines = True
        self._wake.set()  # before `ending`: a thread that sees the end must also see that there may be new lines
        self._ending.set()

    def wait_closed(self, timeout_s: float) -> int:
        """Wait, after `end`, until everything is delivered; after `timeout_s` give up with a warning.

        Returns:
            The number of lines of the metrics file that were not delivered.
        """
        if self._thread is None:
            return 0
        try:
            self._thread.join(timeout_s)
        finally:  # also after an interrupt
            self.abandon()
        if self.has_everything:
            return 0
        lines = self._delivery.remaining()
        self._outage.lost(lines, self._delivery.results_waiting, sync_command(self._run_dir, self.tracker))
        return lines

    def abandon(self) -> None:
        """Stop without a word: a thread that still waits for an answer ends after it."""
        self._abandoned.set()
        self._ending.set()
        self._wake.set()

    # The rest runs on the thread.

    def _serve(self) -> None:
        failures = 0
        while not (self._delivery.is_closed or self._abandoned.is_set()):
            try:
                self._advance()
            except RunLostError:  # training ends with it
                return
            except TrackerRefusedError as error:
                self._note_failure(error)
                return
            except Exception as error:
                failures += 1
                self._note_failure(error)
                if self._ending.is_set() and failures >= _ATTEMPTS_AT_THE_END:
                    return
                self._pause_after(failures, error)
            else:
                failures = 0
                if not self._abandoned.is_set():
                    self._outage.end(self.tracker.url)
                self._wait_for_news()

    def _advance(self) -> None:
        """Open the tracker if it is not open, deliver everything new, and close it if the run has ended."""
        delivery = self._delivery
        if not delivery.is_open:
            delivery.open()
            self._settled.set()
        self._wake.clear()
        if self._has_lines:  # before the first, a resume may not have cut the file yet
            delivery.deliver_metrics(self._abandoned.is_set)
            delivery.deliver_results(self._abandoned.is_set)
        if self._ending.is_set() and not self._wake.is_set() and not self._abandoned.is_set():
            delivery.close(*self._end)

    def _note_failure(self, error: Exception) -> None:
        self._last_error = error
        if self.is_open or not self.is_required:  # else `wait_open` raises it
            self._outage.begin(error)
        self._settled.set()

    def _wait_for_news(self) -> None:
        if not (self._delivery.is_closed or self._abandoned.is_set()):
            self._wake.wait()
            self._ending.wait(self._interval_s)  # lines that come close together make one delivery

    def _pause_after(self, failures: int, error: Exception) -> None:
        asked = error.retry_after_s if isinstance(error, TrackerError) else 0.0
        if self._ending.is_set():
            self._abandoned.wait(max(0.5 * failures, asked))
        else:
            self._ending.wait(max(pause_s(failures), min(asked, _LONGEST_REQUESTED_PAUSE_S)))


def pause_s(failures: int) -> float:
    """Return the seconds to wait after this many failures in a row: longer each time, with jitter."""
    return _RANDOM.uniform(0.5, 1.0) * min(_LONGEST_PAUSE_S, 2.0 ** min(failures - 1, 10))


def feed_name(tracker: BaseTracker, name: str | None = None) -> str:
    """Return the name of a tracker in messages and in the names of its files."""
    return name_in_files(name or tracker.tracker_config.kind or type(tracker).__name__)


def name_in_files(name: str) -> str:
    """Return a name or kind with only those characters that a file name may have."""
    return re.sub(r"[^\w.-]", "-", name)


def sync_command(run_dir: Path, tracker: BaseTracker) -> str:
    """Return the command that delivers the rest of a run later, with the store if the spec names one."""
    command = f"noether tracker sync {shlex.quote(str(run_dir))}"
    if tracker.address_field and tracker.address and getattr(tracker.tracker_config, tracker.address_field, None):
        command += f" --store {shlex.quote(tracker.address)}"
    return command


class Outage:
    """The state of the connection to a tracker; logs only changes of it.

    Args:
        name: The tracker's name in messages.
        metrics_path: The file that has all metrics.
    """

    def __init__(self, name: str, metrics_path: Path) -> None:
        self._name = name
        self._metrics_path = metrics_path
        self._down = False

    def begin(self, reason: Exception) -> None:
        """Warn that the tracker does not answer, unless that was logged."""
        if self._down:
            return
        self._down = True
        _LOGGER.warning(
            "tracker %s: %s. Training is not affected; the tracker %s; all metrics are in %s",
            self._name,
            in_one_line(reason),
            "is not tried again" if isinstance(reason, TrackerRefusedError) else "will be tried again",
            self._metrics_path,
        )

    def end(self, url: str | None) -> None:
        """Log that the tracker answers again, with its address, if it did not answer before."""
        if self._down:
            self._down = False
            _LOGGER.info("tracker %s answers again%s", self._name, f": {url}" if url else "")

    def lost(self, lines: int, results: int, command: str) -> None:
        """Warn about everything that was not delivered, and name the command that delivers it later."""
        _LOGGER.warning(
            "tracker %s: the run ended before everything was delivered: %d metric lines, %d results and the end of "
            "the run are missing there; all metrics are in %s. Deliver the rest later: %s",
            self._name,
            lines,
            results,
            self._metrics_path,
            command,
        )

    def note(self, message: str) -> None:
        """Warn about a smaller problem than an outage."""
        _LOGGER.warning("tracker %s: %s", self._name, message)


def in_one_line(error: Exception) -> str:
    """Return an error and its hint without line breaks."""
    text = str(error.message) if isinstance(error, TrackerError) else error_text(error)
    hint = f" ({error.hint})" if isinstance(error, TrackerError) and error.hint else ""
    return " ".join((text + hint).split())[:400]
