"""Waiting for what a run can do without, such as a server, only until somebody wants the process to end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import copy_context

from noether.training.signals import StopSignals

_AFTER_A_SIGNAL_S = 5.0
_LOOK_EVERY_S = 0.02


def unless_told_to_leave(work: Callable[[], object], signals: StopSignals) -> bool:
    """Do `work` on a thread of its own and wait for it; after a signal not for long, after a second one not at all.

    Args:
        work: What may take long; where it is left, it goes on until the process ends.
        signals: What this run has been sent.

    Returns:
        Whether it is done.

    Raises:
        Exception: What `work` raised.
    """
    raised: list[BaseException] = []

    def noting_errors() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=copy_context().run, args=(noting_errors,), name="leaving", daemon=True)
    thread.start()
    told_at: float | None = None
    while thread.is_alive():
        thread.join(_LOOK_EVERY_S)
        if signals.received is not None and told_at is None:
            told_at = time.monotonic()
        if signals.insists or (told_at is not None and time.monotonic() - told_at > _AFTER_A_SIGNAL_S):
            break
    if raised:
        raise raised[0]
    return not thread.is_alive()
