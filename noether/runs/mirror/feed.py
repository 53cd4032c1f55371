"""Mirror: the thread that has committed checkpoints uploaded; training never waits for it and never fails with it."""

from __future__ import annotations

import json
import logging
import os
import secrets
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from noether.checkpoint.commit import RunLostError
from noether.checkpoint.paths import PathProvider, checkpoint_folders, checkpoint_name, update_of
from noether.metrics.feed import pause_s
from noether.runs.mirror.store import Store

if TYPE_CHECKING:
    from noether.checkpoint.writer import CheckpointWriter
    from noether.training.signals import StopSignals

_LOG = logging.getLogger("noether.mirror")
_ATTEMPTS_AT_THE_END = 3
_AFTER_CTRL_C_S = 5.0
_LOOK_EVERY_S = 0.05
_CHECK_EVERY_S = 1.0
_ENDED = "the process that uploads has ended"


class NoMirror:
    """The mirror of a run that has none."""

    def start(self, writer: CheckpointWriter, require_own: Callable[[], object]) -> None:
        """Do nothing."""

    def close(self, signals: StopSignals | None = None, *, is_interrupt: bool = False) -> None:
        """Do nothing."""

    def abandon(self) -> None:
        """Do nothing."""


class UnansweredError(Exception):
    """The store refuses, or gives no answer."""


class _LostError(Exception):
    """Another run, or another attempt at this run, uploads to the mirror now."""


class Mirror(NoMirror):
    """Have the checkpoints of one run uploaded after their commit, by a process that a daemon thread feeds.

    Args:
        address: URL below which each run has a folder.
        paths: Paths of the run.
        timeout_s: Longest wait at the end of the run.

    Attributes:
        store: The mirror; it is not connected to from this process.
        accepted: Token of an owner that this run takes over from, beside those in its folder.
        said: Records of before the run began, for its log.
    """

    def __init__(self, address: str, paths: PathProvider, timeout_s: float) -> None:
        self.store, self.paths = Store(address, paths.run_id), paths
        self.accepted: str | None = None
        self.said: list[logging.LogRecord] = []
        self._timeout_s = timeout_s
        self._uploader = _Uploader(address, paths, self._hear)
        self._thread: threading.Thread | None = None
        self._wake, self._ending, self._abandoned = threading.Event(), threading.Event(), threading.Event()
        self._there: list[int] = []
        self._is_down = self._is_lost = False

    def owner(self, patience_s: float) -> str | None:
        """Return the token of the attempt that uploads; None if the mirror has no such run.

        Raises:
            UnansweredError: if the store refuses, or gives no answer in time.
        """
        until = time.monotonic() + patience_s

        def check() -> None:
            if time.monotonic() > until:
                raise UnansweredError(f"no answer within {patience_s:.3g} s")

        owner = self._uploader.ask({"do": "owner"}, check)
        return owner if isinstance(owner, str) else None

    def start(self, writer: CheckpointWriter, require_own: Callable[[], object]) -> None:
        """Upload in the background what the mirror lacks, now and after each commit.

        Args:
            writer: The writer of the run's checkpoints.
            require_own: Raises `RunLostError` if the run is not that of this process any more.
        """
        for record in self.said:
            logging.getLogger(record.name).handle(record)
        writer.on_committed = self._wake.set
        self._wake.set()
        work = (self._serve, writer, require_own)
        self._thread = threading.Thread(target=copy_context().run, args=work, name="mirror", daemon=True)
        self._thread.start()

    def close(self, signals: StopSignals | None = None, *, is_interrupt: bool = False) -> None:
        """Wait until everything is uploaded, but not longer than `mirror_timeout_s`; warn about what is missing.

        Another stop signal ends the waiting. The thread gives up after a few failures in a row.

        Args:
            signals: Stop signals of the run.
            is_interrupt: True after Ctrl-C: wait for a few seconds only.
        """
        if self._thread is None:
            self._uploader.kill()
            return
        self._ending.set()
        self._wake.set()
        before = signals.count if signals is not None else 0
        until = time.monotonic() + (min(self._timeout_s, _AFTER_CTRL_C_S) if is_interrupt else self._timeout_s)
        try:
            while self._thread.is_alive() and time.monotonic() < until:
                if signals is not None and signals.count > before:
                    break
                self._thread.join(_LOOK_EVERY_S)
        finally:
            is_done = not self._thread.is_alive()
            self.abandon()
            self._thread.join()
        if not self._is_lost:  # it was said then
            self._say_what_is_missing(is_done and not self._is_down)

    def abandon(self) -> None:
        """Stop without a word; an upload that is under way is broken off."""
        self._abandoned.set()
        self._ending.set()
        self._wake.set()
        if self._thread is None:
            self._uploader.kill()

    def _say_what_is_missing(self, is_done: bool) -> None:
        local = checkpoint_folders(self.paths.checkpoint_path)
        missing = ", ".join(folder.name for folder in local if update_of(folder) not in self._there)
        if is_done and not missing:
            _LOG.info("mirror: everything is in %s", self.store.address)
            return
        newest = f"its newest one is {checkpoint_name(max(self._there))}" if self._there else "none may be there"
        _LOG.warning(
            "mirror: the run ended before everything was uploaded: %s lacks %s; %s. Everything is in %s, and a resume "
            "uploads the rest",
            self.store.address,
            missing or "the last changes",
            newest,
            self.paths.run_path,
        )

    # The rest runs on the thread.

    def _serve(self, writer: CheckpointWriter, require_own: Callable[[], object]) -> None:
        try:
            self._follow(writer, require_own)
        finally:
            self._uploader.kill()

    def _follow(self, writer: CheckpointWriter, require_own: Callable[[], object]) -> None:
        failures = 0
        while not self._abandoned.is_set():
            self._wake.wait()
            self._wake.clear()
            is_ending = self._ending.is_set()  # before the last look at the folder
            retention = [writer.retention.keep_last, writer.retention.keep_every]
            request = {"do": "upload", "retention": retention, "accepted": self.accepted}
            try:
                self._uploader.ask(request, _Check(require_own, self._abandoned))
            except RunLostError:  # training ends with it, or nobody waits any more
                return
            except _LostError as error:
                self._is_lost = True
                _LOG.warning("mirror: %s. Nothing more is uploaded; training is not affected", error)
                return
            except Exception as error:
                failures += 1
                self._note_failure(error)
                if is_ending and failures >= _ATTEMPTS_AT_THE_END:
                    return
                (self._abandoned if is_ending else self._ending).wait(pause_s(failures))
                self._wake.set()
            else:
                failures = 0
                if self._is_down:
                    self._is_down = False
                    _LOG.info("mirror: %s answers again", self.store.address)
                if is_ending:
                    return

    def _note_failure(self, error: Exception) -> None:
        if not self._is_down:
            self._is_down = True
            _LOG.warning(
                "mirror: %s: %s. Training is not affected; the upload will be tried again; all checkpoints are in %s",
                self.store.address,
                error,
                self.paths.checkpoint_path,
            )

    def _hear(self, answer: dict[str, Any]) -> None:
        """Take a line of the uploader that is not its last."""
        if "note" in answer:
            _LOG.warning("mirror: %s", answer["note"])
        self._there = answer.get("there", self._there)


class _Check:
    """Raises `RunLostError` if the upload is to end: checks each second that the run is this process's own."""

    def __init__(self, require_own: Callable[[], object], abandoned: threading.Event) -> None:
        self._require_own, self._abandoned, self._next = require_own, abandoned, 0.0

    def __call__(self) -> None:
        if self._abandoned.is_set():
            raise RunLostError("nobody waits for the upload any more")
        if time.monotonic() >= self._next:
            self._require_own()
            self._next = time.monotonic() + _CHECK_EVERY_S


class _Uploader:
    """The process that uploads, see `noether.runs.mirror.upload`; started by the first request, and after it died.

    Args:
        address: URL below which each run has a folder.
        paths: Paths of the run.
        hear: Called with each line but the last of an answer.
    """

    def __init__(self, address: str, paths: PathProvider, hear: Callable[[dict[str, Any]], None]) -> None:
        self._given = {
            "address": address,  # not an argument, which other users of the machine can see
            "output": str(paths.output_path),
            "run_id": paths.run_id,
            "pid": os.getpid(),
            "token": secrets.token_hex(16),
        }
        self._hear = hear
        self._process: subprocess.Popen[bytes] | None = None
        self._read = b""

    def ask(self, request: dict[str, Any], check: Callable[[], object]) -> Any:
        """Send a request and return the answer.

        Args:
            request: The request.
            check: Called while waiting; an error that it raises ends the process.

        Raises:
            UnansweredError: if the store refuses, or the process dies.
            _LostError: if the mirror belongs to another run now.
        """
        try:
            check()
            if self._process is None:
                self._start()
            self._send(request)
            while not {"done", "lost", "error"} & (answer := self._answer(check)).keys():
                self._hear(answer)
        except BaseException:  # its next answer would be that to this request
            self.kill()
            raise
        if "lost" in answer:
            raise _LostError(answer["lost"])
        if "error" in answer:
            raise UnansweredError(answer["error"])
        return answer["done"]

    def kill(self) -> None:
        """End the process, whatever it does."""
        process, self._process, self._read = self._process, None, b""
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]  # both are pipes

    def _start(self) -> None:
        # -P: the working folder may be a stranger's run folder, from which nothing is imported
        command = [sys.executable, "-P", "-m", "noether.runs.mirror.upload"]
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        try:
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=null, start_new_session=True)
        except OSError as error:
            raise UnansweredError(f"cannot start a process for the upload: {error}") from error
        self._send(self._given)

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None, "started with a pipe"
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise UnansweredError(_ENDED) from error

    def _answer(self, check: Callable[[], object]) -> dict[str, Any]:
        """Return the next line of the process."""
        assert self._process is not None and self._process.stdout is not None, "started with a pipe"
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._read:
            check()
            if select.select([descriptor], [], [], _LOOK_EVERY_S)[0]:
                if not (data := os.read(descriptor, 1 << 16)):
                    raise UnansweredError(_ENDED)
                self._read += data
        line, _, self._read = self._read.partition(b"\n")
        try:
            answer = json.loads(line)
        except ValueError:  # printed by a library
            return {}
        return answer if isinstance(answer, dict) else {}
