"""The thread between a run and its tracker: training tells it that there is news, and never waits for it."""

from __future__ import annotations

import random
import re
import threading
import time
from collections import deque
from dataclasses import replace
from pathlib import Path

from noether.core.trackers.base import BaseTracker, RunDescription, RunStatus
from noether.core.trackers.errors import TrackerError, TrackerRefusedError
from noether.core.trackers.outage import Outage, in_one_line
from noether.core.trackers.spool import SpoolState, read_spool, write_spool
from noether.core.trackers.tail import MetricsTail

_RECORDS_A_BATCH = 500
_LONGEST_PAUSE_S = 30.0
_ATTEMPTS_AT_THE_END = 3
_RANDOM = random.Random()
"""For jitter; the global generator belongs to the training."""


class TrackerFeed:
    """Carries a run's `metrics.jsonl` to one tracker, on a daemon thread of its own.

    The file is the truth and the only buffer: the thread reads on from where its last delivery ended, so an
    outage costs neither memory nor values. How far it got is kept in `spool/<name>.json` of the run's folder;
    a later attempt at the run goes on from there and sends nothing twice. Whatever the tracker raises is
    retried, told in one warning for each outage, and never reaches the caller.

    Args:
        tracker: What to feed; from now on only this thread opens, feeds and closes it.
        metrics_path: The run's `metrics.jsonl`; it may not exist yet. A resume cuts it before the first
            `notify`.
        run: What the tracker is told when it is opened.
        name: Name in messages and of the spool file; by default the tracker's kind.
        interval_s: How long to gather news before delivering them.
    """

    def __init__(
        self,
        tracker: BaseTracker,
        metrics_path: Path,
        run: RunDescription,
        *,
        name: str | None = None,
        interval_s: float = 1.0,
    ) -> None:
        self.tracker = tracker
        self.name = re.sub(r"[^\w.-]", "-", name or tracker.tracker_config.kind or type(tracker).__name__)
        self._metrics_path = metrics_path
        self._interval_s = interval_s
        self._outage = Outage(self.name, metrics_path)
        self._spool_path = run.run_dir / "spool" / f"{self.name}.json"
        spool = read_spool(self._spool_path)
        self._run = replace(run, reference=spool.reference)
        self._tail = MetricsTail(metrics_path, spool.delivered)
        self._artifacts: deque[tuple[Path, str]] = deque()
        self._thread: threading.Thread | None = None
        self._news = threading.Event()
        self._ending = threading.Event()
        self._settled = threading.Event()  # the first attempt to open has ended, either way
        self._opened = self._closed = self._abandoned = False
        self._last_error: Exception | None = None
        self._end: tuple[RunStatus, str | None] = ("FINISHED", None)

    def start(self) -> None:
        """Begin to open the tracker, in the background; a tracker that wants no metrics gets no thread."""
        if self.tracker.wants_metrics:
            self._thread = threading.Thread(target=self._serve, name=f"tracker-{self.name}", daemon=True)
            self._thread.start()

    def wait_open(self, timeout_s: float) -> bool:
        """Give the tracker time to open, and return whether it is open.

        One that is not goes on being tried in the background, with a warning.

        Raises:
            TrackerError: If it is `required` and could not be opened in time.
        """
        if self._thread is None:
            return True
        self._settled.wait(timeout_s)
        if self._opened:
            return True
        reason = self._last_error or TrackerError(f"no answer within {timeout_s:g} s")
        if self.tracker.tracker_config.required:
            raise TrackerError(
                f"the tracker {self.name!r} could not be opened: {in_one_line(reason)}",
                hint="start it, or let the run go on without it: set `required = false` in its table",
            ) from self._last_error
        self._outage.begin(reason)
        return False

    @property
    def is_open(self) -> bool:
        """Whether the tracker has answered to being opened."""
        return self._opened

    def notify(self) -> None:
        """Say that the metrics file has grown. Sets an event and returns."""
        self._news.set()

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Hand the file `path` to the tracker, in the background; it has to stay until the run ends."""
        self._artifacts.append((path, folder))
        self._news.set()

    def close(self, status: RunStatus, error: str | None = None, deadline_s: float = 30.0) -> int:
        """Deliver what is left and end the run on the tracker's side, within `deadline_s`.

        Args:
            status: How the run ended.
            error: The text of what ended it, for a run that failed.
            deadline_s: After this time the rest is left undelivered.

        Returns:
            The number of lines of the metrics file that were not delivered; a warning tells about them.
        """
        if self._thread is None:
            return 0
        self._end = (status, error)
        self._news.set()  # before `ending`: who sees the end also sees that there may be news
        self._ending.set()
        self._thread.join(deadline_s)
        self._abandoned = True  # a thread that still waits for an answer ends when it comes
        self._news.set()
        if self._closed:
            return 0
        missing = self._tail.remaining()
        if missing or self._artifacts or self._opened:
            self._outage.lost(missing, len(self._artifacts))
        return missing

    # The rest runs on the thread.

    def _serve(self) -> None:
        failures = 0
        while not (self._closed or self._abandoned):
            try:
                self._advance()
            except TrackerRefusedError as error:
                self._note_failure(error)
                return
            except Exception as error:
                failures += 1
                self._note_failure(error)
                if self._ending.is_set() and failures >= _ATTEMPTS_AT_THE_END:
                    return
                self._pause_after(failures)
            else:
                failures = 0
                if not self._abandoned:
                    self._outage.end()
                self._wait_for_news()

    def _advance(self) -> None:
        """Do everything that there is to do now."""
        if not self._opened:
            self.tracker.open(self._run)
            self._opened = True
            self._remember()
            self._settled.set()
        if self._news.is_set():
            self._news.clear()
            try:
                self._deliver_metrics()
                self._deliver_artifacts()
            except BaseException:
                self._news.set()  # what was not delivered is still news
                raise
        if self._ending.is_set() and not self._news.is_set() and not self._abandoned:
            self.tracker.close(*self._end)
            self._closed = True

    def _deliver_metrics(self) -> None:
        while not self._abandoned and (batch := self._tail.next_batch(_RECORDS_A_BATCH)):
            if batch.records:
                self.tracker.log_metrics(batch.records)
            self._tail.commit(batch)
            self._remember()
            if batch.damaged:
                self._outage.note(f"left out {batch.damaged} damaged lines of {self._metrics_path}")

    def _deliver_artifacts(self) -> None:
        while not self._abandoned and self._artifacts:
            path, folder = self._artifacts[0]
            if path.exists():
                self.tracker.log_artifact(path, folder)
            else:
                self._outage.note(f"{path} is not there any more and was not uploaded")
            self._artifacts.popleft()

    def _remember(self) -> None:
        try:
            write_spool(self._spool_path, SpoolState(self._tail.delivered, self.tracker.reference))
        except OSError as error:  # at worst a later attempt delivers some values twice
            self._outage.note(f"cannot write {self._spool_path}: {error.strerror or error}")

    def _note_failure(self, error: Exception) -> None:
        self._last_error = error
        if self._opened or not self.tracker.tracker_config.required:  # else `wait_open` raises it
            self._outage.begin(error)
        self._settled.set()

    def _wait_for_news(self) -> None:
        if not (self._closed or self._abandoned):
            self._news.wait()
            self._ending.wait(self._interval_s)  # gather what comes close together into one delivery

    def _pause_after(self, failures: int) -> None:
        if self._ending.is_set():
            time.sleep(0.5 * failures)
        else:
            longest = min(_LONGEST_PAUSE_S, 2.0 ** (failures - 1))
            self._ending.wait(_RANDOM.uniform(0.5, 1.0) * longest)
