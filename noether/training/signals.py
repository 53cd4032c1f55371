"""Stop signals: SIGTERM and SIGHUP end a run after its update with a checkpoint.

A second signal ends it at once, a third one does what it does by default.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType
from typing import Any

from noether.kernel.participant import Interruption

_ONCE_S = 5.0


_HANGUP = getattr(signal, "SIGHUP", signal.SIGTERM)  # POSIX only


class StoppedBySignal(Interruption):
    """Raised by a second signal: nothing more is saved.

    Attributes:
        signal_number: Number of the signal.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class StopSignals:
    """Handlers of stop signals while a run lasts, and the signals that have arrived; may be entered again inside.

    A handler only takes notes, with two exceptions. A signal that ends the run at once (a second one, or Ctrl-C without
    `save_on_sigint`) raises inside `interrupting`, unless `uninterrupted` holds it back; one that arrived before raises
    when `interrupting` is entered. A third signal does what it does by default. A terminal that is closed sends SIGHUP
    more than once, so one after another signal counts for nothing. Outside the main thread, where Python allows no
    handlers, none are installed.

    Args:
        save_on_sigint: True if Ctrl-C waits for a checkpoint; otherwise it interrupts at once, as usual.
        names: Further signals that stop a run as SIGTERM does: `SIGUSR1`.
        is_shared: True if several ranks have to agree on a signal before they act on it, see `receive`. A launcher
            passes on what its ranks may have got as well, so that the same signal again counts as a second one only
            after some seconds.

    Attributes:
        heard: The first signal that arrived in this process.
        received: The first signal that arrived, as the run acts on it.
        count: Number of signals that arrived.
        insists: True if one of them ends the run at once.
    """

    def __init__(self, *, save_on_sigint: bool, names: Iterable[str] = (), is_shared: bool = False) -> None:
        self._is_shared = is_shared
        self._saves_on_sigint = save_on_sigint
        self._numbers = [signal.SIGTERM, *(signal.Signals[name] for name in names), _HANGUP, signal.SIGINT]
        self._former: dict[int, Any] = {}
        self._depth = self._interrupting = self._uninterrupted = 0
        self._forget()

    def _forget(self) -> None:
        self.heard: int | None = None
        self.received: int | None = None
        self._heard_at = 0.0
        self.count = 0
        self.insists = False

    def receive(self, number: int) -> None:
        """Act on a signal that a rank has got."""
        self.received = self.received or number

    @property
    def name(self) -> str:
        """Return the name of the first signal that arrived: `SIGTERM`."""
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
                # None stands for a handler that was not installed from Python, which cannot put it back.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            self._former = {}

    def _handled(self) -> list[signal.Signals]:
        """Return the signals to handle, each once; not those that `nohup`, or a shell for background jobs, ignores."""
        ignorable = [_HANGUP] if self._saves_on_sigint else [_HANGUP, signal.SIGINT]
        ignored = [number for number in ignorable if signal.getsignal(number) == signal.SIG_IGN]
        return [number for number in dict.fromkeys(self._numbers) if number not in ignored]

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let a signal that ends the run at once raise inside, also one that has arrived before."""
        self._interrupting += 1
        try:
            if self.insists:
                self._raise()
            yield
        finally:
            self._interrupting -= 1

    @contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """Finish the work inside, a commit, before a signal may raise."""
        self._uninterrupted += 1
        try:
            yield
        finally:
            self._uninterrupted -= 1
        if self.insists:
            self._raise()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == _HANGUP:
            _let_go_of_lost_terminal()
            if self.count:
                return
        if self._is_shared and number == self.heard and monotonic() - self._heard_at < _ONCE_S:
            return
        self.count += 1
        if self.heard is None:
            self.heard, self._heard_at = number, monotonic()
            self.received = None if self._is_shared else number
        if self.count > 2:
            _do_as_by_default(number)
        if self.count > 1 or (number == signal.SIGINT and not self._saves_on_sigint):
            self.insists = True
            self._raise()

    def _raise(self) -> None:
        if self._interrupting and not self._uninterrupted:
            assert self.heard is not None, "only a signal can insist"
            only_ctrl_c = self.heard == signal.SIGINT and not self._saves_on_sigint
            raise KeyboardInterrupt if only_ctrl_c else StoppedBySignal(self.heard)


def _let_go_of_lost_terminal() -> None:
    """Write to nowhere instead of to a terminal that was closed: every output would fail."""
    import termios  # POSIX only

    for stream in range(3):
        try:
            termios.tcgetattr(stream)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                nowhere = os.open(os.devnull, os.O_RDWR)
                os.dup2(nowhere, stream)
                os.close(nowhere)


def _do_as_by_default(number: int) -> None:
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.raise_signal(number)
