"""Worker processes of a loader: their start, stop signals, errors and deaths."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, TypeVar
from warnings import catch_warnings, filterwarnings

from noether.errors import DataError, TrainingError
from noether.kernel.stops import not_by_a_hook

Item = TypeVar("Item")

CHECK_EVERY = 5.0
"""Seconds without a batch after which dead workers are looked for."""


class WorkerDeaths:
    """Replaces torch's handler of SIGCHLD, and calls it only while the process waits for a batch.

    Attributes:
        is_waiting: True while the process waits for a batch.
    """

    def __init__(self) -> None:
        self.is_waiting = False
        self._is_noted = False
        self._raise_for_the_dead: Callable[[int, FrameType | None], Any] | None = None

    def watch(self) -> None:
        """Replace torch's handler, which it installs with the first workers, in the main thread only."""
        if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
            return
        handler = signal.getsignal(signal.SIGCHLD)
        if callable(handler) and handler != self._handle:
            self._raise_for_the_dead = handler
            signal.signal(signal.SIGCHLD, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.is_waiting:
            self._report(frame)
        else:
            self._is_noted = True

    def _report(self, frame: FrameType | None = None) -> None:
        self._is_noted = False
        if self._raise_for_the_dead is not None:
            self._raise_for_the_dead(signal.SIGCHLD, frame)

    def waiting_for(self, batches: Iterator[Item], timeout: float) -> Iterator[Item]:
        """Yield the batches of the workers.

        Args:
            batches: Torch's iterator, which looks for dead workers after `CHECK_EVERY` seconds without a batch.
            timeout: Seconds to wait for a batch.

        Raises:
            RuntimeError: if a worker has died, or no batch came in time.
        """
        checks = max(1, round(timeout / CHECK_EVERY))
        while True:
            self.is_waiting = True
            try:
                if self._is_noted:
                    self._report()
                batch = _next_of(batches, checks)
            except StopIteration:
                return
            finally:
                self.is_waiting = False
            yield batch


def _next_of(batches: Iterator[Item], checks: int) -> Item:
    """Return the next batch; no signal reports the deaths of a fork server's workers."""
    while True:
        try:
            return next(batches)
        except RuntimeError as error:
            checks -= 1
            if checks <= 0 or not str(error).startswith("DataLoader timed out"):
                raise


WORKER_DEATHS = WorkerDeaths()
"""One for each process, which has one handler for each signal."""

_NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU")
STOP_SIGNALS = [signal.Signals[name] for name in _NAMES if name in signal.Signals.__members__]
"""Signals with which a terminal or a scheduler stops all processes of a run."""


def ignore_stop_signals(worker: int) -> None:
    """Ignore stop signals to the process group; called in a worker before its first batch."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


@contextmanager
def born_ignoring() -> Iterator[None]:
    """Block stop signals while workers are started, so that none is stopped before it ignores them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


STARTED_BY_US = "_NOETHER_STARTS_WORKERS"
UNGUARDED = 86  # exit code of a worker in which the script begins a run of its own
GUARD = 'call Noether inside of `if __name__ == "__main__":` in the script, or set start_method = "fork" under [loader]'


@contextmanager
def starting(start_method: str) -> Iterator[None]:
    """Explain errors of starting workers.

    Raises:
        TrainingError: if a worker cannot be started.
        DataError: if the data cannot be sent to it.
    """
    os.environ[STARTED_BY_US] = "1"
    try:
        with born_ignoring(), catch_warnings():
            filterwarnings("ignore", message="Got pickle error")  # torch's, beside the error
            yield
    except (EOFError, ConnectionError) as error:
        raise TrainingError(f"no worker can be started by {start_method}: it ended at once", hint=GUARD) from error
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise DataError(
            f"the data cannot be sent to workers that are started by {start_method}: {error}",
            hint="define classes and functions at the top of a module, or set num_workers = 0 under [loader]",
        ) from error
    finally:
        os.environ.pop(STARTED_BY_US, None)


def end_by_killing(workers: Iterable[BaseProcess]) -> None:
    """Make `terminate` kill these processes, because they ignore SIGTERM."""
    for worker in workers:
        process = worker._popen  # type: ignore[attr-defined]  # Python's exit asks it, and not the worker
        process.terminate = process.kill


def kill(workers: Iterable[BaseProcess]) -> None:
    """Kill processes that do not respond."""
    for worker in workers:
        if worker.is_alive():
            worker.kill()


class Failure:
    """An error in a worker, sent in place of a batch: torch would put its traceback into the message.

    Args:
        error: The error; one that cannot be sent is replaced by a RuntimeError with its text and its notes.
    """

    def __init__(self, error: Exception) -> None:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        self.place = f"{frame.filename}:{frame.lineno}"
        shown = traceback.TracebackException.from_exception(error)
        shown.__notes__ = None  # the error brings them along
        self.text = "".join(shown.format())
        self.error = error.with_traceback(None)
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            self.error = RuntimeError(f"{type(error).__name__}: {error}")
            for note in getattr(error, "__notes__", ()):
                not_by_a_hook(self.error).add_note(note)

    def taken(self) -> Exception:
        """Return the error, caused by the traceback of the worker, and forget it: a frame holds this object."""
        error: Exception = self.__dict__.pop("error")
        error.raised_at = self.place  # type: ignore[attr-defined]  # read where the error is shown
        error.__cause__ = WorkerTraceback(f"\n{self.text}")
        return error


class WorkerTraceback(Exception):  # noqa: N818 -- the cause of an error
    """Text of the traceback of an error in a worker."""
