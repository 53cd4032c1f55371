"""Worker processes of a loader: their start, stop signals, errors and deaths."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.popen_forkserver import Popen as ForkServerProcess
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from types import FrameType
from typing import Any
from warnings import catch_warnings, filterwarnings

from noether.errors import DataError, TrainingError, error_text, notes_of
from noether.kernel.participant import not_by_a_hook

CHECK_EVERY = 5.0
"""Seconds without a batch after which dead workers are looked for."""
_LAST_MOMENT = 1.0
"""Seconds to wait for the end of a worker whose connection is broken."""


class WorkerLostError(RuntimeError):
    """Workers have ended, whose batches will never come.

    Attributes:
        workers: The workers that have ended.
    """

    def __init__(self, workers: Sequence[BaseProcess]) -> None:
        super().__init__(", ".join(map(str, workers)))
        self.workers = workers


class WorkerDeaths:
    """Notices that a worker has ended, by a signal, while the process waits for its batches.

    Takes the place of torch's handler of SIGCHLD, which overlooks a worker that ends with code 0, and calls it for the
    workers of others.
    """

    def __init__(self) -> None:
        self._awaited: Sequence[BaseProcess] = ()
        self._is_noted = False
        self._of_torch: Callable[[int, FrameType | None], Any] | None = None

    def watch(self, workers: Iterable[BaseProcess]) -> None:
        """Handle the deaths of workers that were just started; in the main thread only, as Python demands."""
        if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
            return
        handler = signal.getsignal(signal.SIGCHLD)
        if handler != self._handle:
            self._of_torch = handler if callable(handler) else None
            signal.signal(signal.SIGCHLD, self._handle)
        for worker in workers:
            _signal_its_end(worker)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._is_noted = True
        if self._awaited:
            self._report(frame)

    def _report(self, frame: FrameType | None = None) -> None:
        self._is_noted = False
        _require_alive(self._awaited)
        if self._of_torch is not None:
            self._of_torch(signal.SIGCHLD, frame)

    def waiting_for(self, batches: Any, timeout: float) -> Iterator[Any]:
        """Yield the batches of the workers.

        Args:
            batches: Torch's iterator, which returns after `CHECK_EVERY` seconds without a batch.
            timeout: Seconds to wait for a batch.

        Raises:
            WorkerLostError: if a worker has ended.
            RuntimeError: if no batch came in time.
        """
        checks = max(1, round(timeout / CHECK_EVERY))
        while True:
            self._awaited = batches._workers
            try:
                if self._is_noted:
                    self._report()
                batch = _next_of(batches, checks)
            except StopIteration:
                return
            finally:
                self._awaited = ()
            yield batch


def _next_of(batches: Any, checks: int) -> Any:
    """Return the next batch; look for workers that have ended without a signal, and at each error in receiving."""
    while True:
        try:
            return next(batches)
        except (RuntimeError, OSError, EOFError) as error:
            is_late = str(error).startswith("DataLoader timed out")
            if not is_late:  # the connection breaks a moment before the process has ended
                wait([worker.sentinel for worker in batches._workers], timeout=_LAST_MOMENT)
            _require_alive(batches._workers)
            pinning = getattr(batches, "_pin_memory_thread", None)
            if pinning is not None and not pinning.is_alive():
                raise TrainingError("a batch cannot be received: its thread has ended by the error above") from None
            checks -= 1
            if not is_late or checks <= 0:
                raise


def _require_alive(workers: Sequence[BaseProcess]) -> None:
    if ended := [worker for worker in workers if not worker.is_alive()]:
        raise WorkerLostError(ended)


def _signal_its_end(worker: BaseProcess) -> None:
    """Let the end of a worker of a fork server raise SIGCHLD, since it is no child; a pipe to it closes then."""
    import fcntl  # POSIX only

    if isinstance(worker._popen, ForkServerProcess) and hasattr(fcntl, "F_SETSIG"):  # type: ignore[attr-defined]
        pipe = worker.sentinel
        fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGCHLD)
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)


WORKER_DEATHS = WorkerDeaths()
"""One for each process, which has one handler for each signal."""

_NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU")
STOP_SIGNALS = [signal.Signals[name] for name in _NAMES if name in signal.Signals.__members__]
"""Signals with which a terminal or a scheduler stops all processes of a run."""


def begin_worker(number: int) -> None:
    """Prepare a worker before its first batch: it ignores stop signals, and reports batches that cannot be sent."""
    ignore_stop_signals()
    Queue._on_queue_feeder_error = _send_failure  # type: ignore[attr-defined]  # Python's own drops the batch
    threading.excepthook = _end_with_thread


def _send_failure(queue: Any, error: Exception, unsent: Any) -> None:
    """Send an error in place of the batch that cannot be sent: the run would wait for it in vain."""
    number, tagged = unsent
    error.add_note("while sending a batch of a worker to the run")
    queue.put((number, tagged._replace(batch=Failure(error))))


def _end_with_thread(found: threading.ExceptHookArgs) -> None:
    """End the worker if the thread that sends its batches ends, by an exception that is not an `Exception`."""
    if found.thread is not None and found.thread.name == "QueueFeederThread":
        sys.__excepthook__(found.exc_type, found.exc_value or found.exc_type(), found.exc_traceback)
        os._exit(_CANNOT_SEND)
    threading.__excepthook__(found)


_CANNOT_SEND = 87


def ignore_stop_signals() -> None:
    """Ignore stop signals to the process group."""
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


def ended_how(worker: BaseProcess) -> str:
    """Return the end of a process in words: `was killed by SIGKILL`, `ended with exit code 3`."""
    code = worker.exitcode or 0
    if code < 0:
        names = {number.value: number.name for number in signal.Signals}
        return f"was killed by {names.get(-code, f'signal {-code}')}"
    return f"ended with exit code {code}"


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
            str(pickle.loads(pickle.dumps(error)))
        except BaseException:  # what its `__reduce__` raises may be anything
            self.error = RuntimeError(error_text(error))
            for note in notes_of(error):
                not_by_a_hook(self.error).add_note(note)

    def taken(self) -> Exception:
        """Return the error, caused by the traceback of the worker, and forget it: a frame holds this object."""
        error: Exception = self.__dict__.pop("error")
        error.raised_at = self.place  # type: ignore[attr-defined]  # read where the error is shown
        error.__cause__ = WorkerTraceback(f"\n{self.text}")
        return error


class WorkerTraceback(Exception):  # noqa: N818 -- the cause of an error
    """Text of the traceback of an error in a worker."""
