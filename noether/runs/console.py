"""What a run says: to the terminal, and to `log.txt` in its folder."""

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
    """Writes to whatever stdout is now: a progress bar replaces it while it is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        self.setStream(sys.stdout)
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the name that logging calls
        """Go on without a reader: `noether run … | head` ends the output and not the run."""
        if not isinstance(sys.exception(), BrokenPipeError):
            super().handleError(record)
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, _STDOUT)  # what is still in buffers would fail again at the exit
        os.close(nowhere)


class _Keeps(logging.Handler):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def kept_for_console() -> Iterator[list[logging.LogRecord]]:
    """Keep what is said while a run is built, for the log of its folder, which does not exist yet.

    Where the run cannot be built, what was said goes where logging sends it without a run.
    """
    level, propagate = LOGGER.level, LOGGER.propagate
    keeps = _Keeps()
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
    """Let the run's messages through to stdout and to a file; leave logging as it was found.

    Args:
        log_path: The run's `log.txt`.
        quiet: Only warnings and errors reach stdout; the file gets everything.
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
