"""Delivery of a run to one tracker, without threads."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from noether.checkpoint.commit import always_own
from noether.checkpoint.untrusted import read_untrusted
from noether.errors import error_text
from noether.metrics.metrics_file import MetricRecord
from noether.metrics.results import RESULTS_INDEX, Result
from noether.metrics.spool import (
    Batch,
    Delivered,
    MetricsTail,
    ResultsTail,
    description_path,
    read_spool,
    write_description,
    write_spool,
)
from noether.metrics.tracker import (
    BaseTracker,
    PackedModel,
    RunDescription,
    RunStatus,
    TrackerError,
    TrackerRefusedError,
)

_RECORDS_A_BATCH = 500
_GIT_TIMEOUT_S = 5
_EVERYTHING = Delivered(sys.maxsize, 0)


class Delivery:
    """Open a tracker, deliver the new lines of `metrics.jsonl` and `results.jsonl` to it, and close it.

    Every action is recorded in the spool file: after it, and also before it if a process that dies in the middle
    would leave an unknown run at the tracker. So another process continues from there, and neither leaves anything
    out nor sends it twice. After a failure, a kill or a resume the tracker is asked which points it has, and gets the
    others; a point that has arrived stays as it is. Every method may be called again after it raised.

    Args:
        tracker: The tracker.
        metrics_path: The run's `metrics.jsonl`.
        run: Description of the run, for opening the tracker.
        spool_path: The spool file.
        note: Called with a warning about anything odd that stops nothing.
        require_own: Raises `RunLostError` if the run is not that of this process any more; called before each write.

    Attributes:
        is_open: True once the tracker is open.
        is_closed: True once the tracker knows the end of the run.
        lines_sent: Number of lines of which this object has sent at least one value.
    """

    def __init__(
        self,
        tracker: BaseTracker,
        metrics_path: Path,
        run: RunDescription,
        spool_path: Path,
        note: Callable[[str], None],
        require_own: Callable[[], object] = always_own,
    ) -> None:
        self.tracker = tracker
        self.is_open = self.is_closed = False
        self.lines_sent = 0
        self._metrics_path = metrics_path
        self._run = run
        self._spool_path = spool_path
        self._note = note
        self._require_own = require_own
        self._state = read_spool(spool_path)
        self._tail = MetricsTail(metrics_path, self._state.delivered)
        self._results_path = metrics_path.with_name(RESULTS_INDEX)
        self._results = ResultsTail(self._results_path, self._state.results)
        self._doubtful = Delivered()  # lines up to there may have arrived although they count as undelivered
        self._is_unsure = False
        self._spool_refused = False

    @property
    def ended(self) -> str:
        """The status that the tracker has acknowledged, in this process or before it; empty if none."""
        return self._state.ended

    @property
    def arrived(self) -> int:
        """The last update of which every line was acknowledged; -1 if none."""
        return self._state.delivered.update

    @property
    def results_waiting(self) -> int:
        """The number of results that were not delivered."""
        return self._results.remaining()

    def open(self) -> None:
        """Start the run at the tracker, or continue it."""
        if not self._run.facts:
            self._run = replace(self._run, facts=process_facts(self._run.spec_path))
        if self._state.reference and self._contradicts():
            self._begin_another_run()
        known = self._state.reference
        self._remember(
            durably=True,
            token=self._state.token or uuid.uuid4().hex,
            reference=known or self.tracker.reference,
            computed=self._computed(),
            ended="",
        )
        self._write(lambda: write_description(description_path(self._spool_path), self._run))
        run = replace(self._run, reference=known, token=self._state.token, continues=self._state.continues)
        self.tracker.open(run)
        reference = self.tracker.reference
        if known and reference != known:  # another run at the tracker: it has nothing yet
            self._begin_anew()
        self._remember(durably=True, reference=reference)
        self._is_unsure = self._reached.update >= 0
        self.is_open = True

    def deliver_metrics(self, stopped: Callable[[], bool] = bool) -> int:
        """Deliver all new lines, and return the number of those that were sent; stops between two batches if told."""
        before = self.lines_sent
        if self._is_unsure:
            self._look_up()
        try:
            while not stopped() and (batch := self._tail.next_batch(_RECORDS_A_BATCH)):
                if batch.records:
                    self._send(batch)
                self._tail.commit(batch)
                self._remember()
                if batch.damaged:
                    self._note(f"left out {batch.damaged} damaged lines of {self._metrics_path}")
        except BaseException:
            self._is_unsure = True  # the request may have done its work
            raise
        return self.lines_sent - before

    def deliver_again(self) -> None:
        """Look up every line at the tracker, and deliver the points that it does not have."""
        self._tail, self._doubtful = MetricsTail(self._metrics_path, Delivered()), _EVERYTHING
        try:
            self.deliver_metrics()
        finally:
            self._doubtful = Delivered()

    def deliver_results(self, stopped: Callable[[], bool] = bool) -> int:
        """Deliver all new figures, tables, histograms and files, and return their number.

        Those of an update in doubt come again: a tracker identifies a result by its key and update.
        """
        sent = 0
        while not stopped() and (batch := self._results.next_batch(1)):
            for result in batch.records:
                sent += self._send_result(result)
            self._results.commit(batch)
            self._remember()
            if batch.damaged:
                self._note(f"left out {batch.damaged} damaged lines of {self._results_path}")
        return sent

    def all_results(self) -> list[Result]:
        """Return every result that the run has listed, damaged lines aside."""
        batch = ResultsTail(self._results_path, Delivered()).next_batch(sys.maxsize, sys.maxsize)
        return list(batch.records) if batch else []

    def deliver_results_again(self, results: Sequence[Result]) -> None:
        """Deliver results that the tracker has lost."""
        for result in results:
            self._send_result(result)

    def upload(self, name: str, folder: str) -> None:
        """Upload a file of the run folder that the framework has written, such as its spec; a link is left out."""
        try:
            content = read_untrusted(self._run.run_dir, name)
        except (OSError, ValueError) as error:
            self._note(f"{name} is not sent: {error}")
        else:
            with _copied(content, name) as copy:
                self.tracker.log_artifact(copy, folder)

    def close(
        self, status: RunStatus, error: str | None, report: bytes | None = None, model: PackedModel | None = None
    ) -> None:
        """Deliver report, trained model and the results in words if the tracker wants them, and end the run there."""
        if report is not None and self.tracker.wants_report:
            try:
                with _copied(report, "report.html") as copy:
                    self.tracker.log_artifact(copy)
            except Exception as failure:  # nothing that a run needs
                self._note(f"report.html is not sent: {failure}")
        if model is not None and self.tracker.wants_model:
            self._send_model(model)
        if self._run.summarise is not None:
            self.tracker.describe(self._run.summarise(status))
        self.tracker.close(status, error)
        self.is_closed = True
        self._remember(durably=True, ended=status)

    def _send_model(self, model: PackedModel) -> None:
        """Give the model to the tracker; only an outage is a reason to try again."""
        try:
            self.tracker.log_model(model)
        except TrackerRefusedError as refusal:
            self._note(f"the model is not logged: {refusal.message}")
        except TrackerError:
            raise
        except Exception as failure:
            self._note(f"the model is not logged: {error_text(failure)}")

    def remaining(self) -> int:
        """Return the number of lines that were not delivered."""
        return self._tail.remaining()

    @property
    def _reached(self) -> Delivered:
        """End of everything that may have arrived."""
        return max(self._tail.delivered, self._state.sending, self._doubtful)

    @property
    def _replayed_from(self) -> int | None:
        """Update after which this attempt computes points again that may have arrived; None if there are none."""
        resumed = self._run.resumed_update
        return resumed if resumed is not None and self._reached.update > resumed else None

    def _contradicts(self) -> bool:
        """Return True if this attempt may log other values for points that may have arrived."""
        if (resumed := self._replayed_from) is None:
            return False
        ends = [*(update for update, _ in self._state.computed[1:]), self._reached.update]
        computed = zip(self._state.computed, ends, strict=False)
        replayed = {digest for (_, digest), end in computed if end > resumed}
        return self._run.may_differ or not replayed <= {self._run.mathematics}

    def _computed(self) -> tuple[tuple[int, str], ...]:
        """Return the digests by update, with that of this attempt."""
        resumed, digest = self._run.resumed_update, self._run.mathematics
        if resumed is None or (self._state.computed and self._state.computed[-1][1] == digest):
            return self._state.computed
        return (*(each for each in self._state.computed if each[0] < resumed), (resumed, digest))

    def _begin_another_run(self) -> None:
        """Keep the run at the tracker as it is, and begin another one that names it."""
        self._tail = MetricsTail(self._metrics_path, Delivered())
        self._results = ResultsTail(self._results_path, Delivered())
        self._doubtful = Delivered()
        self._remember(
            durably=True,
            token=uuid.uuid4().hex,
            reference={},
            continues=self._state.reference,
            sending=Delivered(),
        )
        self._note("this attempt may log other values for updates that were logged before: it gets a run of its own")

    def _begin_anew(self) -> None:
        self._tail = MetricsTail(self._metrics_path, Delivered())
        self._results = ResultsTail(self._results_path, Delivered())
        self._doubtful = Delivered()
        self._remember(sending=Delivered())

    def _look_up(self) -> None:
        """Go back to the newest update that the tracker surely has; later points are looked up before they are sent."""
        newest = self.tracker.newest_update()
        self._doubtful = self._reached
        if newest is not None:  # else it shows some points twice
            self._doubtful = max(self._doubtful, Delivered(newest, sys.maxsize))  # a power failure loses positions
            start = min(newest, self._tail.delivered.update)
            if (resumed := self._replayed_from) is not None:
                start = min(start, resumed)
            self._tail = MetricsTail(self._metrics_path, Delivered(start, 0))
        self._is_unsure = False

    def _send(self, batch: Batch[MetricRecord]) -> None:
        records = batch.records
        if self._tail.delivered < self._doubtful:
            records = tuple(self.tracker.undelivered(records))
        self._remember(sending=max(self._state.sending, batch.seen))
        if records:
            self.tracker.log_metrics(records)
        self.lines_sent += len(records)

    def _send_result(self, result: Result) -> bool:
        """Give a result to the tracker as a copy of what the run has written; False if it is something else by now."""
        try:
            content = result.read(self._results_path.parent)
        except (OSError, ValueError) as error:
            self._note(f"{result.file!r} is not sent: {error}")
            return False
        with _copied(content, Path(result.file).name) as copy:
            self.tracker.log_result(result, copy)
        return True

    def _remember(self, *, durably: bool = False, **changes: object) -> None:
        known = {"delivered": self._tail.delivered, "results": self._results.delivered} | changes
        self._state = replace(self._state, **known)  # type: ignore[arg-type]  # names of fields with their values
        self._write(lambda: write_spool(self._spool_path, self._state, durably=durably))

    def _write(self, write: Callable[[], None]) -> None:
        self._require_own()
        try:
            write()
        except OSError as error:  # at worst another process delivers some values twice
            if not self._spool_refused:
                self._note(f"cannot write {self._spool_path}: {error.strerror or error}")
            self._spool_refused = True
        else:
            self._spool_refused = False


@contextmanager
def _copied(content: bytes, name: str) -> Iterator[Path]:
    """Yield a file of this name with the content, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="noether-") as place:
        copy = Path(place) / name
        copy.write_bytes(content)
        yield copy


def process_facts(spec_path: Path | None) -> dict[str, str]:
    """Return user, host, pid, version and git commit of this process; unknown ones are left out.

    Runs git, so it belongs on a thread that may wait.

    Args:
        spec_path: The spec, in the repository of the commit; None for the working folder's repository.
    """
    facts = {
        "user": _user(),
        "host": socket.gethostname(),
        "pid": str(os.getpid()),
        "version": _version(),
        "git_commit": git_commit(spec_path.parent if spec_path else Path.cwd()),
    }
    return {name: value for name, value in facts.items() if value is not None}


def git_commit(folder: Path) -> str | None:
    """Return the commit that is checked out in the folder's repository; None if there is none, or no git.

    `git rev-parse` runs nothing that a repository's own config names, unlike `git status`.
    """
    command = ["git", "-C", str(folder), "rev-parse", "--verify", "--quiet", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run under a number without a name
        return None


def _version() -> str | None:
    try:
        return version("noether-train")
    except PackageNotFoundError:
        return None
