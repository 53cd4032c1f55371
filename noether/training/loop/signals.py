"""SIGTERM and SIGINT become "stop after this update, save first"; a second one ends at once, a third as by default."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class StoppedBySignal(BaseException):
    """A second signal arrived: nothing more is saved.

    Derives from `BaseException`, so that no callback's `except Exception` keeps a run alive that has to end.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class StopSignals:
    """Installs handlers while a run lasts and remembers what arrived; entered again inside, it does nothing.

    A handler does nothing but take notes, but for two cases: a signal that ends at once (a second one, or Ctrl-C that
    is not to save) raises inside of `interrupting`, unless that is `uninterrupted` at the moment; and a third one does
    what it does by default. Outside of the main thread, where Python allows no handlers, nothing is installed.

    Args:
        save_on_sigint: Whether Ctrl-C waits for a checkpoint; otherwise it interrupts at once, as usual.
        names: Further signals that stop as SIGTERM does: `SIGUSR1`.

    Attributes:
        received: The first signal that arrived.
        count: How many did.
        insists: Whether one of them is to end the run at once.
    """

    def __init__(self, *, save_on_sigint: bool, names: Iterable[str] = ()) -> None:
        self._saves_on_sigint = save_on_sigint
        self._numbers = [signal.SIGTERM, *(signal.Signals[name] for name in names), signal.SIGINT]
        self._former: dict[int, Any] = {}
        self._depth = self._interrupting = self._uninterrupted = 0
        self._forget()

    def _forget(self) -> None:
        self.received: int | None = None
        self.count = 0
        self.insists = False

    @property
    def name(self) -> str:
        """The signal that arrived: `SIGTERM`."""
        assert self.received is not None, "ask for the name of a signal that has arrived"
        return signal.Signals(self.received).name

    def __enter__(self) -> StopSignals:
        self._depth += 1
        if self._depth == 1:
            self._forget()
            if threading.current_thread() is threading.main_thread():
                self._former = {number: signal.signal(number, self._handle) for number in self._handled()}
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            for number, handler in self._former.items():
                # None stands for a handler that Python has not installed and cannot put back.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            self._former = {}

    def _handled(self) -> list[signal.Signals]:
        """Return the signals to handle, each once; Ctrl-C not where a shell has background jobs ignore it."""
        ignored = not self._saves_on_sigint and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        return [number for number in dict.fromkeys(self._numbers) if not (ignored and number == signal.SIGINT)]

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let a signal that ends at once raise inside."""
        self._interrupting += 1
        try:
            yield
        finally:
            self._interrupting -= 1

    @contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """Finish what is inside, a commit, before a signal that ends at once may raise."""
        self._uninterrupted += 1
        try:
            yield
        finally:
            self._uninterrupted -= 1
        if self.insists:
            self._raise()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.received is None:
            self.received = number
        if self.count > 2:
            _do_as_by_default(number)
        if self.count > 1 or (number == signal.SIGINT and not self._saves_on_sigint):
            self.insists = True
            self._raise()

    def _raise(self) -> None:
        if self._interrupting and not self._uninterrupted:
            assert self.received is not None, "only a signal can insist"
            only_ctrl_c = self.received == signal.SIGINT and not self._saves_on_sigint
            raise KeyboardInterrupt if only_ctrl_c else StoppedBySignal(self.received)


def _do_as_by_default(number: int) -> None:
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.raise_signal(number)
