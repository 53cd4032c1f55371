"""Telling of workers that have died where somebody waits for their batches, and nowhere else.

Torch raises from its handler of SIGCHLD, wherever the process is at that moment: in the middle of a save, or when the
run is over and only writes down how it ended.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

Batch = TypeVar("Batch")


class WorkerDeaths:
    """Stands before torch's handler of SIGCHLD, and calls it only while a batch is waited for.

    Attributes:
        is_waiting: Whether one is.
    """

    def __init__(self) -> None:
        self.is_waiting = False
        self._is_noted = False
        self._raise_for_the_dead: Callable[[int, FrameType | None], Any] | None = None

    def watch(self) -> None:
        """Take torch's handler over, which it installs with the first workers, in the main thread alone."""
        if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
            return
        handler = signal.getsignal(signal.SIGCHLD)
        if callable(handler) and handler != self._handle:
            self._raise_for_the_dead = handler
            signal.signal(signal.SIGCHLD, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.is_waiting:
            self._tell(frame)
        else:
            self._is_noted = True

    def _tell(self, frame: FrameType | None = None) -> None:
        self._is_noted = False
        if self._raise_for_the_dead is not None:
            self._raise_for_the_dead(signal.SIGCHLD, frame)

    def waiting_for(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield what workers deliver.

        Raises:
            RuntimeError: One of them has died.
        """
        while True:
            self.is_waiting = True
            try:
                if self._is_noted:
                    self._tell()
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.is_waiting = False
            yield batch


WORKER_DEATHS = WorkerDeaths()
"""Of this process, which has one handler of each signal."""
