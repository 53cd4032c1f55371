"""Logging of a run: to the terminal, and to `log.txt` in its folder."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from noether.config.secrets import MaskSecrets
from noether.spec.errors.words import visible_lines

_STDOUT = 1
BOLD = {"noether_style": "1"}
"""`extra` of a record that is bold on a terminal."""
LOGGER = logging.getLogger("noether")


_run: ContextVar[object | None] = ContextVar("noether_logging_run", default=None)
_lock = threading.Lock()
_found: list[tuple[int, bool]] = []  # level and propagation for each run under way, as it found them


class _OwnRecords(logging.Filter):
    """Pass the records of one run: those of its thread, and of the threads that it has started.

    A thread of user code belongs to no run; its records are passed if only one run is under way.
    """

    def __init__(self, run: object) -> None:
        super().__init__()
        self._own = run

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True if the record was made by this run."""
        run = _run.get()
        return run is self._own or (run is None and len(_found) == 1)


class _ToStdout(logging.StreamHandler):  # type: ignore[type-arg]  # only generic in the stubs
    """Write to the current stdout, if there is one: a progress bar replaces it while it is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stdout is not None and not getattr(sys.stdout, "closed", False):
            self.setStream(sys.stdout)
            super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record with what the stream cannot encode as escapes, as on stderr."""
        text, encoding = super().format(record), getattr(self.stream, "encoding", None)
        text = text.encode(encoding, "backslashreplace").decode(encoding) if isinstance(encoding, str) else text
        style = {logging.WARNING: "33", logging.ERROR: "31"}.get(record.levelno, getattr(record, "noether_style", ""))
        return f"\x1b[{style}m{text}\x1b[0m" if style and self._has_colors() else text

    def _has_colors(self) -> bool:
        is_terminal = getattr(self.stream, "isatty", None)
        return bool(
            not os.environ.get("NO_COLOR")
            and os.environ.get("TERM", "").lower() not in ("", "dumb", "unknown")
            and is_terminal is not None
            and is_terminal()
        )

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the name that logging calls
        """Continue without a reader: `noether run … | head` ends the output and not the run."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)
        elif sys.stdout is sys.__stdout__:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, _STDOUT)  # buffered text would fail again at the exit
            os.close(nowhere)


class _ToLog(logging.FileHandler):
    """Append to a file of a run folder; a link of that name is not followed."""

    def __init__(self, path: Path, run: Path) -> None:
        super().__init__(path, encoding="utf-8", delay=True)
        self._path, self._run = path, run

    def _open(self) -> TextIOWrapper:
        return open_log(self._path, self._run)


def open_log(path: Path, run: Path) -> TextIOWrapper:
    """Open the log of a run to append to it.

    Raises:
        StorageError: if it is a link or not a regular file.
        OSError: if the disk refuses.
    """
    from noether.checkpoint.durable import storage_error  # the command imports this module before its verb
    from noether.checkpoint.untrusted import NotPlainError, open_inside

    try:
        return os.fdopen(open_inside(run, path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "a", encoding="utf-8")
    except NotPlainError as error:
        raise storage_error(error, path) from error


class VisibleFormatter(logging.Formatter):
    """Escape control characters, which would move the cursor of a terminal or change its colors."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record; line ends and tabs stay."""
        return visible_lines(super().format(record))


class _Collector(logging.Handler):
    """Collect records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def _taken_over(*handlers: logging.Handler) -> Iterator[None]:
    """Send the messages of this run to the handlers only; the last run to end leaves logging as the first found it."""
    run = object()
    token = _run.set(run)
    with _lock:
        _found.append((LOGGER.level, LOGGER.propagate))
        LOGGER.setLevel(logging.INFO)
        LOGGER.propagate = False
        for handler in handlers:
            handler.addFilter(_OwnRecords(run))
            LOGGER.addHandler(handler)
    try:
        yield
    finally:
        _run.reset(token)
        with _lock:
            for handler in handlers:
                LOGGER.removeHandler(handler)
            level, propagate = _found.pop()
            if not _found:
                LOGGER.setLevel(level)
                LOGGER.propagate = propagate


@contextmanager
def kept_for_console() -> Iterator[list[logging.LogRecord]]:
    """Collect records while a run is built, for the log of its folder, which does not exist yet.

    If the run cannot be built, the records go where logging sends them without a run.
    """
    keeps = _Collector()
    try:
        with _taken_over(keeps):
            yield keeps.records
    except BaseException:
        for record in keeps.records:
            if LOGGER.isEnabledFor(record.levelno):
                LOGGER.handle(record)
        raise


@contextmanager
def log_of_rank(name: str, run: Path | None) -> Iterator[TextIO]:
    """Send the messages of a rank that does not write the run folder to a log of its own; return that file.

    Args:
        name: Name of the log.
        run: The run folder; None if this machine does not have it, and the messages go to stderr.
    """
    with nullcontext(sys.stderr) if run is None else open_log(run / name, run) as log:
        handler = logging.StreamHandler(log)
        handler.setFormatter(VisibleFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handler.addFilter(MaskSecrets())
        with _taken_over(handler):
            yield log


@contextmanager
def console(log_path: Path, run: Path, *, quiet: bool) -> Iterator[None]:
    """Send the messages of a run to stdout and to a file; leave logging as it was found.

    Messages of other runs in this process, in other threads, go elsewhere.

    Args:
        log_path: `log.txt` of the run.
        run: The run folder.
        quiet: Send only warnings and errors to stdout; the file gets everything.
    """
    stdout = _ToStdout(sys.stdout)
    stdout.setLevel(logging.WARNING if quiet else logging.INFO)
    stdout.setFormatter(VisibleFormatter("%(message)s"))
    file = _ToLog(log_path, run)
    file.setFormatter(VisibleFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for handler in (stdout, file):
        handler.addFilter(MaskSecrets())
    try:
        with _taken_over(stdout, file):
            yield
    finally:
        stdout.close()
        file.close()
