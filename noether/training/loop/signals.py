"""SIGTERM and SIGINT become "stop after this update, save first"; a second signal ends at once."""

from __future__ import annotations

import signal
import threading
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
    """Installs handlers while training runs and remembers what arrived.

    Outside of the main thread, where Python allows no handlers, it does nothing.

    Args:
        save_on_sigint: Whether Ctrl-C waits for a checkpoint; otherwise it interrupts at once, as usual.
    """

    def __init__(self, *, save_on_sigint: bool) -> None:
        self.received: int | None = None
        self._numbers = [signal.SIGTERM, signal.SIGINT] if save_on_sigint else [signal.SIGTERM]
        self._former: dict[int, Any] = {}

    @property
    def name(self) -> str:
        """The signal that arrived: `SIGTERM`."""
        assert self.received is not None, "ask for the name of a signal that has arrived"
        return signal.Signals(self.received).name

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._handle) for number in self._numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            # None stands for a handler that Python has not installed and cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._former = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise StoppedBySignal(number)
        self.received = number
