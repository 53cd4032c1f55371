"""Watchdog: a thread that interrupts work of another thread which does not come back in time."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from types import FrameType
from typing import Any, TextIO

from noether.kernel.participant import Interruption

_GRACE = 10.0
"""Seconds after the exception in which the work has to end, before the last resort."""
_LOOKS = 10  # while the time of one piece of work passes
_LONGEST_WAIT = 1.0  # seconds between two looks
_SIGNALS = ("SIGVTALRM", "SIGPROF", "SIGALRM")
"""Signals of timers that hardly any program uses."""


class Overdue(Interruption):
    """Raised in the work that did not come back in time."""


class Watchdog:
    """Interrupts the thread that enters it if its work is overdue; the work pays nothing for it.

    In the main thread the exception also ends calls that wait for the system: the handler of a signal raises it that
    nobody else handles. Code that never returns to Python is left to the last resort.

    Args:
        overdue: Returns a message if the work is overdue. It is called from the thread of the watchdog.
        seconds: The time that the work may take, from which the pause between two looks follows.
        report: Takes the message before the work is interrupted.
        last_resort: Takes it if the work is still overdue some seconds later; None to wait on.

    Attributes:
        message: The message of the work that was interrupted.
    """

    def __init__(
        self,
        overdue: Callable[[], str | None],
        seconds: float,
        report: Callable[[str], None],
        last_resort: Callable[[str], object] | None = None,
    ) -> None:
        self._overdue = overdue
        self._pause = min(seconds / _LOOKS, _LONGEST_WAIT)
        self._report = report
        self._last_resort = last_resort
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._signal: signal.Signals | None = None
        self.message = ""

    def __enter__(self) -> Watchdog:
        self._work = threading.get_ident()
        if threading.current_thread() is threading.main_thread():
            timers = [signal.Signals[name] for name in _SIGNALS]
            self._signal = next((number for number in timers if signal.getsignal(number) == signal.SIG_DFL), None)
        if self._signal is not None:
            signal.signal(self._signal, self._raise)
        self._thread = threading.Thread(target=self._watch, name="noether-watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._done.set()
        self._thread.join()
        if self._signal is not None:
            signal.signal(self._signal, signal.SIG_DFL)
        elif self.message:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._work), None)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if not self._done.is_set():
            raise Overdue(self.message)

    def _watch(self) -> None:
        interrupted: float | None = None
        while not self._done.wait(self._pause):
            message = self._overdue()
            if message is None:
                interrupted = None
            elif interrupted is None:
                interrupted = monotonic()
                self._interrupt(message)
            elif self._last_resort is not None and monotonic() - interrupted > _GRACE:
                self._last_resort(message)

    def _interrupt(self, message: str) -> None:
        with self._lock:
            if self._done.is_set():
                return
            self.message = message
            with suppress(Exception):  # no place to write to is no reason to let the work hang
                self._report(message)
            if self._signal is not None:
                signal.pthread_kill(self._work, self._signal)
            else:
                raised = type("Overdue", (Overdue,), {"__str__": lambda _: message})  # takes a class only
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._work), ctypes.py_object(raised))


def write_stacks(file: TextIO | int, message: str) -> None:
    """Write a message and the stack of every thread; takes no lock that a hanging thread may hold.

    Args:
        file: An open file, or the number of one.
        message: The reason.
    """
    number = file if isinstance(file, int) else file.fileno()
    os.write(number, f"{message}; the stack of every thread, innermost call first:\n".encode())
    faulthandler.dump_traceback(number, all_threads=True)


class OverdueHook:
    """Finds a hook that a callback does not return from, in the stack of the thread that calls the hooks.

    Hooks compiled with `HookWatch.counts` count their calls, so that a call is told from the next one.

    Args:
        seconds: The time that one call may take.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._work = threading.get_ident()
        self._call: tuple[Any, ...] | None = None
        self._since = 0.0

    def __call__(self) -> str | None:
        """Return a message if the outermost call of a hook has not ended in time; it names the innermost callback."""
        calls = _calls_in(sys._current_frames().get(self._work))
        call = calls[-1][:3] if calls else None
        if call is None or call != self._call:
            self._call, self._since = call, monotonic()
            return None
        if monotonic() - self._since < self.seconds:
            return None
        implementation, counter = calls[0][3:]
        update = f", at update {counter.update}" if hasattr(counter, "update") else ""
        place = f"hook {implementation.hook} of {implementation.participant.description}"
        return f"{place} has not returned within {self.seconds:g} s{update}"


def _calls_in(frame: FrameType | None) -> list[tuple[Any, ...]]:
    """Return the calls of hooks in a stack, innermost first: names, count, place, implementation, update counter."""
    calls = []
    while frame is not None:
        names = frame.f_globals
        if "_calls" in names and frame.f_code.co_filename.startswith("<noether "):
            inside = frame.f_locals
            at = inside.get("_at")
            implementation = names.get("_implementation") or (names["_all"][at] if at is not None else None)
            if implementation is not None:
                calls.append((id(names), names["_calls"][0], at, implementation, inside.get("update_counter")))
        frame = frame.f_back
    return calls


class _Reading:
    """Work that has to show progress.

    Args:
        seconds: The time between two signs of progress.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.since = monotonic()

    def __call__(self) -> str | None:
        if monotonic() - self.since < self.seconds:
            return None
        return f"found nothing within {self.seconds:g} s"


_readings: dict[int, _Reading] = {}


def has_progressed() -> None:
    """Begin anew the time in which this thread has to build or read a data set: `timeout` of `[loader]`."""
    if (reading := _readings.get(threading.get_ident())) is not None:
        reading.since = monotonic()


@contextmanager
def in_time(seconds: float, explain: Callable[[Overdue], Exception]) -> Iterator[None]:
    """Interrupt the work inside if it neither ends nor progresses in time, and print the stack of every thread.

    Inside another one, only the time begins anew.

    Args:
        seconds: The time.
        explain: Returns the error to raise.
    """
    thread = threading.get_ident()
    if thread in _readings:
        has_progressed()
        yield
        return
    _readings[thread] = reading = _Reading(seconds)
    watchdog = Watchdog(reading, seconds, lambda message: write_stacks(2, message))
    try:
        with watchdog:
            yield
    except Overdue as error:
        raise explain(error) from None
    finally:
        del _readings[thread]
