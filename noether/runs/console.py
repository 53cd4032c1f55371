"""Logging of a run: to the terminal, and to `log.txt` in its folder."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from noether.config.secrets import MaskSecrets

_STDOUT = 1
LOGGER = logging.getLogger("noether")


class _ToStdout(logging.StreamHandler):  # type: ignore[type-arg]  # only generic in the stubs
    """Write to the current stdout: a progress bar replaces it while it is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        self.setStream(sys.stdout)
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the name that logging calls
        """Continue without a reader: `noether run … | head` ends the output and not the run."""
        if not isinstance(sys.exception(), BrokenPipeError):
            super().handleError(record)
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, _STDOUT)  # buffered text would fail again at the exit
        os.close(nowhere)


class _Collector(logging.Handler):
    """Collect records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def kept_for_console() -> Iterator[list[logging.LogRecord]]:
    """Collect records while a run is built, for the log of its folder, which does not exist yet.

    If the run cannot be built, the records go where logging sends them without a run.
    """
    level, propagate = LOGGER.level, LOGGER.propagate
    keeps = _Collector()
    LOGGER.addHandler(keeps)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    built = False
    try:
        yield keeps.records
        built = True
    finally:
        LOGGER.removeHandler(keeps)
        LOGGER.setLevel(level)
        LOGGER.propagate = propagate
        for record in keeps.records if not built else ():
            if LOGGER.isEnabledFor(record.levelno):
                LOGGER.handle(record)


@contextmanager
def console(log_path: Path, *, quiet: bool) -> Iterator[None]:
    """Send the messages of a run to stdout and to a file; leave logging as it was found.

    Args:
        log_path: `log.txt` of the run.
        quiet: Send only warnings and errors to stdout; the file gets everything.
    """
    level, propagate = LOGGER.level, LOGGER.propagate
    stdout = _ToStdout(sys.stdout)
    stdout.setLevel(logging.WARNING if quiet else logging.INFO)
    stdout.setFormatter(logging.Formatter("%(message)s"))
    file = logging.FileHandler(log_path, encoding="utf-8", delay=True)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handlers = (stdout, file)
    for handler in handlers:
        handler.addFilter(MaskSecrets())
        LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    try:
        yield
    finally:
        LOGGER.setLevel(level)
        LOGGER.propagate = propagate
        for handler in handlers:
            LOGGER.removeHandler(handler)
            handler.close()
