"""How far a pass over a data set has come, for who waits at a terminal."""

from __future__ import annotations

import sys
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

SHOW_AFTER_S = 0.5
_REDRAW_S = 0.1


class PassBar:
    """A bar below that of training, on a terminal only, and only where a pass takes long enough to be looked at.

    Args:
        name: What is gone through.
        batches: How many batches the pass has.
        show_after: Seconds after which it appears.
    """

    def __init__(self, name: str, batches: int, *, show_after: float = SHOW_AFTER_S) -> None:
        self._name = name
        self._batches = batches
        self._done = 0
        self._redraw_at = monotonic() + show_after if sys.stdout.isatty() else float("inf")
        self._bar: Progress | None = None

    def advance(self) -> None:
        """Count one batch."""
        self._done += 1
        if monotonic() >= self._redraw_at:
            self._draw()
            self._redraw_at = monotonic() + _REDRAW_S

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _draw(self) -> None:
        if self._bar is None:
            self._bar = _open(self._name, self._batches)
        self._bar.update(self._bar.task_ids[0], completed=self._done)
        self._bar.refresh()


def _open(name: str, batches: int) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn

    bar = Progress(
        TextColumn("  {task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} batches"),
        auto_refresh=False,
        transient=True,
    )
    bar.add_task(name, total=batches)
    bar.start()
    return bar
