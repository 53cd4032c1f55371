"""Ctrl-C on the command line: one line and exit code 130, from the first moment on. Imports nothing heavy."""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

INTERRUPTED = 128 + signal.SIGINT
_IMPORTING = "<frozen importlib._bootstrap>"


class CtrlC:
    """The handler of SIGINT outside of training.

    It ends the process at once while the command line is put together, and in the middle of an import: C code of a
    module makes other errors of a `KeyboardInterrupt`. A verb at work gets the exception, so that it can clean up.

    A verb at work is inside of it as a context manager.

    Attributes:
        has_come: True if an exception was raised in a verb.
    """

    def __init__(self) -> None:
        self._is_in_verb = False
        self.has_come = False

    def __enter__(self) -> None:
        self._is_in_verb = True

    def __exit__(self, *_: object) -> None:
        self._is_in_verb = False

    def listen(self) -> None:
        """Handle Ctrl-C from now on, unless a shell lets its background jobs ignore it."""
        if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)
            sys.unraisablehook = self._end_if_unraisable

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._is_in_verb or _imports(frame):
            _end_at_once()
        self.has_come = True
        raise KeyboardInterrupt

    def _end_if_unraisable(self, unraisable: sys.UnraisableHookArgs) -> None:
        """End the process if Ctrl-C came where Python would print its exception and go on: in a `__del__`."""
        if unraisable.exc_type is KeyboardInterrupt:
            _end_at_once()
        sys.__unraisablehook__(unraisable)


def _imports(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTING:
            return True
        frame = frame.f_back
    return False


def _end_at_once() -> None:
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


CTRL_C = CtrlC()
"""One for the process, as there is one handler for each signal."""
