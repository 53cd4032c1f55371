"""`progress`: a live progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any, Protocol

from pydantic import Field

from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import MetricFacts
from noether.core.callbacks.default.eta import Pace, clock
from noether.core.callbacks.evaluation import on_terminal
from noether.core.callbacks.periodic import PeriodicCallback
from noether.kernel.progress import UpdateCounter

TRAINING_LOSS = "loss/online/total"
_REDRAW_SECONDS = 0.1  # the eye sees no more, and a redraw costs more than many updates
_TOTAL = re.compile(r"loss/([^/]+)/total")


class ProgressConfig(CallBackBaseConfig):
    """Config of the `progress` callback."""

    lines: int = Field(20, ge=1, description="Number of plain lines over the whole run, if there is no terminal.")


class ProgressDisplay(Protocol):
    """Display of the progress of a run."""

    def show(self, counter: UpdateCounter, losses: Callable[[], str], pace: Pace, *, is_last: bool) -> bool:
        """Show the current counters, losses and rate; return False if it is too early for that."""

    def close(self) -> None:
        """Release the output."""


class ProgressCallback(PeriodicCallback):
    """Show epoch, update, rate, remaining time, the mean training loss since the last display, and evaluation losses.

    ```toml
    [[trainer.callbacks]]
    kind = "progress"
    every_n_updates = 10
    lines = 50
    ```

    Args:
        callback_config: The interval at which the display is updated; it limits redraws by itself.
        **kwargs: Arguments of `PeriodicCallback`.
    """

    calls_model = False
    draws_in_rounds = False

    def __init__(self, callback_config: ProgressConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self.lines = callback_config.lines
        self._noted: list[float] = []  # training losses since the last display
        self._pace: Pace | None = None
        self._display: ProgressDisplay | None = None

    @classmethod
    def produced_metrics(cls, config: ProgressConfig, facts: MetricFacts) -> tuple[str, ...]:
        """Return no keys: it logs nothing."""
        return ()

    def before_training(self, *, update_counter: UpdateCounter) -> None:
        """Open the display."""
        self._pace = Pace(update_counter)
        self.writer.on_written.append(self._note)
        self._display = LiveBar(update_counter) if on_terminal() else PlainLines(self, update_counter)

    def _note(self, metrics: Mapping[str, float]) -> None:
        """Note the training loss of a line of metrics."""
        if (loss := metrics.get(TRAINING_LOSS)) is not None:
            self._noted.append(loss)

    def periodic_callback(self, *, update_counter: UpdateCounter, **_: Any) -> None:
        """Update the display; the last time is left to `after_training`, when the last evaluation is known."""
        if not update_counter.is_finished:
            self._show(update_counter)

    def after_training(self, *, update_counter: UpdateCounter) -> None:
        """Show the end."""
        self._show(update_counter, is_last=True)

    def _show(self, counter: UpdateCounter, *, is_last: bool = False) -> None:
        if self._display is None or self._pace is None:
            return
        if self._display.show(counter, self._losses, self._pace, is_last=is_last):
            self._noted.clear()

    def close(self) -> None:
        """Close the display."""
        if self._display is not None:
            self._display.close()
            self._display = None
        if self._note in self.writer.on_written:
            self.writer.on_written.remove(self._note)

    def _losses(self) -> str:
        """Return the total losses as short text: of training the mean since the last display, else the last ones."""
        known = self.writer.written_metrics
        if self._noted:
            known[TRAINING_LOSS] = sum(self._noted) / len(self._noted)
        matches = ((_TOTAL.fullmatch(key), value) for key, value in known.items())
        return "  ".join(f"{match[1]} {value:.4g}" for match, value in matches if match)


class LiveBar:
    """Live progress bar for a terminal; a terminal that was closed is no reason to stop training."""

    def __init__(self, counter: UpdateCounter) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn(
                "{task.completed:.0f}/{task.total:.0f}  {task.fields[rate]}  {task.fields[losses]}", markup=False
            ),
            auto_refresh=False,
            transient=False,
        )
        self._task = self._bar.add_task(
            "train",
            total=counter.end_update,
            completed=counter.update,
            epoch=counter.epoch,
            rate="",
            losses="",
        )
        with suppress(OSError):
            self._bar.start()
        self._drawn = 0.0

    def show(self, counter: UpdateCounter, losses: Callable[[], str], pace: Pace, *, is_last: bool) -> bool:
        """Redraw, unless the last redraw was a moment ago."""
        now = monotonic()
        if now - self._drawn < _REDRAW_SECONDS and not is_last:
            return False
        self._drawn = now
        self._bar.update(
            self._task,
            completed=counter.update,
            epoch=counter.epoch,
            rate=_rate(counter, pace),
            losses=losses(),
        )
        with suppress(OSError):
            self._bar.refresh()
        return True

    def close(self) -> None:
        """Draw once more and release the terminal."""
        with suppress(OSError):
            self._bar.refresh()
        with suppress(OSError):
            self._bar.stop()


class PlainLines:
    """Plain lines for files and pipes."""

    def __init__(self, callback: ProgressCallback, counter: UpdateCounter) -> None:
        self._log = callback.logger
        self._updates = max(counter.end_update // callback.lines, 1)
        self._next = counter.update + self._updates

    def show(self, counter: UpdateCounter, losses: Callable[[], str], pace: Pace, *, is_last: bool) -> bool:
        """Write a line if enough updates have passed since the last one."""
        if counter.update < self._next and not is_last:
            return False
        self._next = counter.update + self._updates
        self._log.info(
            "epoch %d  update %d/%d  %s  %s",
            counter.epoch,
            counter.update,
            counter.end_update,
            _rate(counter, pace),
            losses(),
        )
        return True

    def close(self) -> None:
        """Do nothing: no resource is open."""


def _rate(counter: UpdateCounter, pace: Pace) -> str:
    if (estimate := pace.estimate(counter)) is None:
        return ""
    rate, remaining = estimate
    return f"{rate:.0f} updates/s  {clock(remaining)} left"
