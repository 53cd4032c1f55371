"""Delivery of a run to one tracker, without threads."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import threading
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from noether.metrics.spool import (
    Batch,
    Delivered,
    MetricsTail,
    description_path,
    read_spool,
    write_description,
    write_spool,
)
from noether.metrics.tracker import BaseTracker, RunDescription, RunStatus

_RECORDS_A_BATCH = 500
_GIT_TIMEOUT_S = 5


class Delivery:
    """Open a tracker, deliver the new lines of `metrics.jsonl` to it, and close it.

    Every action is recorded in the spool file: after it, and also before it if a process that dies in the middle
    would leave an unknown run at the tracker. So another process continues from there, and neither leaves anything
    out nor sends it twice. Every method may be called again after it raised.

    Args:
        tracker: The tracker.
        metrics_path: The run's `metrics.jsonl`.
        run: Description of the run, for opening the tracker.
        spool_path: The spool file.
        note: Called with a warning about anything odd that stops nothing.

    Attributes:
        is_open: True once the tracker is open.
        is_closed: True once the tracker knows the end of the run.
        files: Files to upload, each with its target folder.
    """

    def __init__(
        self,
        tracker: BaseTracker,
        metrics_path: Path,
        run: RunDescription,
        spool_path: Path,
        note: Callable[[str], None],
    ) -> None:
        self.tracker = tracker
        self.is_open = self.is_closed = False
        self._metrics_path = metrics_path
        self._run = run
        self._spool_path = spool_path
        self._note = note
        self._state = read_spool(spool_path)
        self._doubtful = self._state.sending
        self._tail = MetricsTail(metrics_path, self._state.delivered)
        self._spool_refused = False
        self._remembering = threading.Lock()  # at the end of a run, the run records files while `open` may hang
        self.files = deque((Path(path), folder) for path, folder in self._state.files)

    @property
    def ended(self) -> str:
        """The status that the tracker has acknowledged, in this process or before it; empty if none."""
        return self._state.ended

    def open(self) -> None:
        """Start the run at the tracker, or continue it."""
        known = self._state.reference
        if not self._run.facts:
            self._run = replace(self._run, facts=process_facts(self._run.spec_path))
        self._remember(
            durably=True,
            token=self._state.token or uuid.uuid4().hex,
            reference=known or self.tracker.reference,
            ended="",
        )
        self._keep_description()
        self.tracker.open(replace(self._run, reference=known, token=self._state.token))
        reference = self.tracker.reference
        if known and reference != known:  # another run at the tracker: it has nothing yet
            self._tail = MetricsTail(self._metrics_path, Delivered())
            self._doubtful = Delivered()
            self._remember(sending=Delivered())
        self._remember(durably=True, reference=reference)
        self.is_open = True

    def deliver_metrics(self, stopped: Callable[[], bool] = bool) -> int:
        """Deliver all new lines, and return their number; stops between two batches if `stopped()` is True."""
        lines = 0
        while not stopped() and (batch := self._tail.next_batch(_RECORDS_A_BATCH)):
            if batch.records:
                self._send(batch)
            self._tail.commit(batch)
            self._remember()
            lines += len(batch.records)
            if batch.damaged:
                self._note(f"left out {batch.damaged} damaged lines of {self._metrics_path}")
        return lines

    def deliver_files(self, stopped: Callable[[], bool] = bool) -> int:
        """Upload the files that wait, and return their number."""
        uploaded = 0
        while not stopped() and self.files:
            path, folder = self.files[0]
            if path.exists():
                self.tracker.log_artifact(path, folder)
                uploaded += 1
            else:
                self._note(f"{path} was removed before it was uploaded")
            self.files.popleft()
            self.remember_files()
        return uploaded

    def remember_files(self) -> None:
        """Record the files that wait, if they have changed."""
        if self._waiting() != self._state.files:
            self._remember()

    def close(self, status: RunStatus, error: str | None) -> None:
        """End the run at the tracker."""
        self.tracker.close(status, error)
        self.is_closed = True
        self._remember(durably=True, ended=status)

    def remaining(self) -> int:
        """Return the number of lines that were not delivered."""
        return self._tail.remaining()

    def _send(self, batch: Batch) -> None:
        records = batch.records
        if self._tail.delivered < self._doubtful:
            records = tuple(self.tracker.undelivered(records))
        self._remember(sending=max(self._state.sending, batch.seen))
        if records:
            self.tracker.log_metrics(records)

    def _waiting(self) -> tuple[tuple[str, str], ...]:
        return tuple((str(path), folder) for path, folder in tuple(self.files))

    def _remember(self, *, durably: bool = False, **changes: object) -> None:
        with self._remembering:
            self._state = replace(self._state, delivered=self._tail.delivered, files=self._waiting(), **changes)  # type: ignore[arg-type]  # names of fields with their values
            self._write(lambda: write_spool(self._spool_path, self._state, durably=durably))

    def _keep_description(self) -> None:
        self._write(lambda: write_description(description_path(self._spool_path), self._run))

    def _write(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:  # at worst another process delivers some values twice
            if not self._spool_refused:
                self._note(f"cannot write {self._spool_path}: {error.strerror or error}")
            self._spool_refused = True
        else:
            self._spool_refused = False


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
