"""Worker processes under signals: those that end a run are for the process that trains; it decides when workers end."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

_NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU")
STOP_SIGNALS = [signal.Signals[name] for name in _NAMES if name in signal.Signals.__members__]
"""What a terminal or a scheduler may send to all processes of a run, so that it ends."""


def ignore_stop_signals(worker: int) -> None:
    """Let a worker work on whatever signal its process group is sent; called in the worker before its first batch."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


@contextmanager
def born_ignoring() -> Iterator[None]:
    """Hold stop signals back while workers are started inside, who inherit that: none is hit before it ignores them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_by_killing(workers: Iterable[BaseProcess]) -> None:
    """Let whoever terminates these processes, be it torch or Python at its exit, kill them: SIGTERM they ignore."""
    for worker in workers:
        process = worker._popen  # type: ignore[attr-defined]  # Python's exit asks it, and not the worker
        process.terminate = process.kill


def kill(workers: Iterable[BaseProcess]) -> None:
    """End processes that do not listen any more."""
    for worker in workers:
        if worker.is_alive():
            worker.kill()
