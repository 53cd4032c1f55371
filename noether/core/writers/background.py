"""A save that is written while training goes on: one thread for one save, which the training thread takes up again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from noether.core.writers.planned_save import PlannedSave


class BackgroundSave:
    """A save in flight. Its thread writes and does nothing else: what follows from it is the training thread's job.

    The process does not end before it has, unless it is killed.

    Args:
        planned: What is saved; nothing may change it any more.
        write: Writes it and returns the step.
    """

    def __init__(self, planned: PlannedSave, write: Callable[[], Path]) -> None:
        self.planned = planned
        self._outcome: Future[Path] = Future()
        threading.Thread(target=self._run, args=(write,), name="checkpoint").start()

    @property
    def has_ended(self) -> bool:
        """Whether `step` returns, or raises, at once."""
        return self._outcome.done()

    def step(self) -> Path:
        """Wait for the end of the save and return the step.

        Raises:
            Exception: What writing it has raised.
        """
        return self._outcome.result()

    def is_stored(self) -> bool:
        """Wait for the end of the save and return whether the step is there."""
        return self._outcome.exception() is None

    def _run(self, write: Callable[[], Path]) -> None:
        try:
            self._outcome.set_result(write())
        except BaseException as error:
            self._outcome.set_exception(error)  # raised where the save is taken up
