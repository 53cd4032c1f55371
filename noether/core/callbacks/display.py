"""Progress of a run as people see it: a live bar on a terminal, plain lines elsewhere, a bar of an evaluation pass."""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from html import escape
from importlib import import_module
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from noether.kernel.progress import UpdateCounter
from noether.spec.errors.words import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

_REDRAW_SECONDS = 0.1  # the eye sees no more, and a redraw costs more than many updates
_NOTEBOOK_SECONDS = 0.25  # each redraw is a message to the browser
SHOW_AFTER_S = 0.5  # shorter passes show no bar
_SHORTEST, _LONGEST = 8, 40  # columns of a bar
_quiet: ContextVar[bool] = ContextVar("noether_quiet", default=False)


@contextmanager
def without_bars(*, quiet: bool = True) -> Iterator[None]:
    """Draw no bar inside of the block, unless it is not `quiet`."""
    token = _quiet.set(quiet)
    try:
        yield
    finally:
        _quiet.reset(token)


def on_terminal() -> bool:
    """Return True if stdout is a terminal that can move its cursor, and bars are wanted.

    A closed or missing stdout, or one without `isatty`, is not a terminal.
    """
    if _quiet.get() or os.environ.get("TERM", "").lower() in ("dumb", "unknown"):
        return False
    try:
        return bool(sys.stdout.isatty())
    except (AttributeError, ValueError):
        return False


class Pace:
    """Updates per second since this session began."""

    def __init__(self, update_counter: UpdateCounter) -> None:
        self._first_update = update_counter.update
        self._started = monotonic()

    def estimate(self, update_counter: UpdateCounter) -> tuple[float, float] | None:
        """Return the updates per second and the remaining seconds at that rate; None before the first update."""
        updates = update_counter.update - self._first_update
        if not updates:
            return None
        rate = updates / max(monotonic() - self._started, 1e-9)
        return rate, (update_counter.end_update - update_counter.update) / rate


def clock(seconds: float) -> str:
    """Format seconds as `1:02:03` or `02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


class Readings(NamedTuple):
    """Values that a display shows.

    Attributes:
        training: Mean training loss since the display was last shown; None if none was written.
        latest: Last value of each metric of an evaluation, by key.
        new: Those that were written since the display was last shown.
    """

    training: float | None
    latest: Mapping[str, float]
    new: Mapping[str, float]

    @property
    def loss(self) -> str:
        """The training loss as short text."""
        return "" if self.training is None else f"train {self.training:.4g}"


def _named(values: Mapping[str, float]) -> list[str]:
    """Return metrics as short texts; the loss of an only field, which is the total once more, is left out."""
    groups = Counter(key.rpartition("/")[0] for key in values)

    def is_repeated(key: str) -> bool:
        group = key.rpartition("/")[0]
        is_only = "loss" in group.split("/") and groups[group] == 2 and not key.endswith("/total")
        return is_only and values.get(f"{group}/total") == values[key]

    return [f"{visible(key)} {value:.4g}" for key, value in values.items() if not is_repeated(key)]


class LiveBar:
    """Live bar of training, with the results of the last evaluation below it.

    A terminal that was closed is no reason to stop training.

    Args:
        counter: Counts of the run.
    """

    def __init__(self, counter: UpdateCounter) -> None:
        self._lines = _Lines()
        self._live = _opened(self._lines)
        self._drawn = 0.0
        self._per_epoch, self._end = counter.updates_per_epoch, counter.end_update

    def show(self, counter: UpdateCounter, readings: Callable[[], Readings], pace: Pace, *, is_last: bool) -> bool:
        """Redraw, unless the last redraw was a moment ago."""
        now = monotonic()
        if now - self._drawn < _REDRAW_SECONDS and not is_last:
            return False
        self._drawn, read = now, readings()
        rate, remaining = _pace(counter, pace)
        self._lines.show(
            counter.update,
            self._end,
            before=[f"epoch {counter.epoch}/{-(-self._end // self._per_epoch)}"],
            after=[f"{counter.update}/{self._end}", rate, remaining, read.loss],
            below=[] if is_last else _named(read.latest),
        )
        with suppress(OSError):
            self._live.refresh()
        return True

    def close(self) -> None:
        """Draw once more and release the terminal."""
        _close(self._live)


def in_notebook() -> bool:
    """Return True if the output of this process goes to a notebook, and bars are wanted."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return not _quiet.get() and getattr(shell, "kernel", None) is not None


class NotebookBar:
    """Live bar of training in a notebook: one output that changes, of a few updates a second at most.

    Args:
        counter: Counts of the run.
    """

    def __init__(self, counter: UpdateCounter) -> None:
        display: Any = import_module("IPython.display").display  # it has no types
        self._handle = display(self._shown(counter, []), raw=True, display_id=True)
        self._drawn = monotonic()

    def show(self, counter: UpdateCounter, readings: Callable[[], Readings], pace: Pace, *, is_last: bool) -> bool:
        """Redraw, unless the last redraw was a moment ago."""
        now = monotonic()
        if now - self._drawn < _NOTEBOOK_SECONDS and not is_last:
            return False
        self._drawn, read = now, readings()
        self._handle.update(self._shown(counter, [*_pace(counter, pace), read.loss, *_named(read.latest)]), raw=True)
        return True

    def close(self) -> None:
        """Do nothing: the output stays as it is."""

    def _shown(self, counter: UpdateCounter, parts: Sequence[str]) -> dict[str, str]:
        """Return the bar in the forms from which a notebook chooses."""
        at = f"epoch {counter.epoch}  update {counter.update}/{counter.end_update}"
        line = "  ".join(filter(None, [at, *parts]))
        bar = f'<progress value="{counter.update}" max="{max(counter.end_update, 1)}"></progress>'
        return {"text/plain": line, "text/html": f"{bar} <code>{escape(line)}</code>"}


class PlainLines:
    """Plain lines for files and pipes.

    Args:
        logger: Takes the lines.
        lines: Number of lines over the whole run.
        counter: Counts of the run.
    """

    def __init__(self, logger: logging.Logger, lines: int, counter: UpdateCounter) -> None:
        self._log = logger
        self._updates = max(counter.end_update // lines, 1)
        self._next = counter.update + self._updates

    def show(self, counter: UpdateCounter, readings: Callable[[], Readings], pace: Pace, *, is_last: bool) -> bool:
        """Write a line if enough updates have passed since the last one; results of evaluations stand in one line."""
        if counter.update < self._next and not is_last:
            return False
        self._next = counter.update + self._updates
        read = readings()
        at = f"epoch {counter.epoch}  update {counter.update}/{counter.end_update}"
        parts = [at, *_pace(counter, pace), read.loss, *_named(read.new)]
        self._log.info("%s", "  ".join(filter(None, parts)))
        return True

    def close(self) -> None:
        """Do nothing: no resource is open."""


class PassBar:
    """Progress bar of an evaluation pass, on a terminal only, shown below the bar of training.

    Args:
        name: Name of the pass on the terminal.
        batches: Number of batches in the pass.
        show_after: Seconds after which the bar appears.
    """

    def __init__(self, name: str, batches: int, *, show_after: float = SHOW_AFTER_S) -> None:
        self._name = name
        self._batches = batches
        self._done = 0
        self._redraw_at = monotonic() + show_after if on_terminal() else float("inf")
        self._lines = _Lines()
        self._live: Live | None = None

    def advance(self) -> None:
        """Count one batch."""
        self._done += 1
        if monotonic() >= self._redraw_at:
            self._draw()
            self._redraw_at = monotonic() + _REDRAW_SECONDS

    def close(self) -> None:
        """Restore the terminal."""
        if self._live is not None:
            _close(self._live)
            self._live = None

    def _draw(self) -> None:
        count = f"{self._done}/{self._batches} batches"
        self._lines.show(self._done, self._batches, before=[f"  {visible(self._name)}"], after=[count])
        if self._live is None:
            self._live = _opened(self._lines, transient=True)
        with suppress(OSError):
            self._live.refresh()


class _Lines:
    """A bar between two texts in one line that fits into the terminal, and a line of values below it."""

    def __init__(self) -> None:
        self.show(0, 1)

    def show(
        self, done: int, total: int, *, before: Sequence[str] = (), after: Sequence[str] = (), below: Sequence[str] = ()
    ) -> None:
        """Set the content; what comes early in `before` and `after` is left out first if the line is too long."""
        self._done, self._total = done, total
        self._before, self._after, self._below = before, after, below

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.cells import cell_len
        from rich.progress_bar import ProgressBar
        from rich.segment import Segment
        from rich.text import Text

        width = options.max_width - 1  # a full line would wrap on some terminals
        parts = [*self._after]
        before = "  ".join(self._before)
        while parts and cell_len("  ".join([before, *filter(None, parts)])) + 2 + _SHORTEST > width:
            parts.remove(min(parts, key=lambda part: _RANK.get(self._after.index(part), 0)))
        after = "  ".join(filter(None, parts))
        room = width - cell_len(before) - cell_len(after) - 2 - 2 * bool(after)
        yield Text(f"{before}  ", style="bold", end="", no_wrap=True)
        if room >= 1:
            bar = ProgressBar(total=max(self._total, 1), completed=self._done, width=min(room, _LONGEST))
            yield from console.render(bar, options)
        yield Text(f"  {after}" if after else "", end="", no_wrap=True)
        if self._below:
            yield Segment.line()
            below = Text(_fitted(self._below, width, cell_len), style="cyan", end="", no_wrap=True)
            below.truncate(width, overflow="crop")
            yield below


_RANK = {0: 1, 1: 0, 2: 2, 3: 3}
"""Order in which the parts after a bar are left out: rate, count, remaining time, loss."""


def _fitted(values: Sequence[str], width: int, length: Callable[[str], int]) -> str:
    """Return as many values as fit in a line, the first one in any case, and the number of the others."""
    for count in range(len(values), 0, -1):
        rest = f"  +{len(values) - count}" if count < len(values) else ""
        line = f"  {'  '.join(values[:count])}{rest}"
        if length(line) <= width or count == 1:
            return line
    return ""


@cache
def _console() -> Console:
    """Return the console of all bars, so that one of a pass stands below that of training.

    It leaves long lines that are printed meanwhile, such as addresses, to the terminal.
    """
    from rich.console import Console

    return Console(soft_wrap=True)


def _opened(content: _Lines, *, transient: bool = False) -> Live:
    from rich.live import Live

    live = Live(content, console=_console(), auto_refresh=False, transient=transient)
    with suppress(OSError):
        live.start()
    return live


def _close(live: Live) -> None:
    with suppress(OSError):
        live.refresh()
    with suppress(OSError):
        live.stop()


def _pace(counter: UpdateCounter, pace: Pace) -> tuple[str, str]:
    """Return the rate and the remaining time as text; both are empty before the first update."""
    if (estimate := pace.estimate(counter)) is None:
        return "", ""
    rate, remaining = estimate
    return f"{rate:.0f} updates/s" if rate >= 10 else f"{rate:.2g} updates/s", f"{clock(remaining)} left"
