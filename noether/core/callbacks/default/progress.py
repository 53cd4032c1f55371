"""`progress`: a live progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from time import monotonic
from typing import Any, Protocol

from pydantic import Field

from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import MetricFacts
from noether.core.callbacks.default.eta import Pace, clock
from noether.core.callbacks.evaluation import on_terminal
from noether.core.callbacks.periodic import PeriodicCallback
from noether.kernel.progress import UpdateCounter

_REDRAW_SECONDS = 0.1  # the eye sees no more, and a redraw costs more than many updates


class ProgressConfig(CallBackBaseConfig):
    """Config of the `progress` callback."""

    lines: int = Field(20, ge=1, description="Number of plain lines over the whole run, if there is no terminal.")


class ProgressDisplay(Protocol):
    """Display of the progress of a run."""

    def show(self, counter: UpdateCounter, metrics: str, pace: Pace) -> None:
        """Show the current counters, losses and rate."""

    def close(self) -> None:
        """Release the output."""


class ProgressCallback(PeriodicCallback):
    """Show epoch, update, rate, remaining time and the last losses.

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

    def __init__(self, callback_config: ProgressConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self.lines = callback_config.lines
        self._pace: Pace | None = None
        self._display: ProgressDisplay | None = None

    @classmethod
    def produced_metrics(cls, config: ProgressConfig, facts: MetricFacts) -> tuple[str, ...]:
        """Return no keys: it logs nothing."""
        return ()

    def before_training(self, *, update_counter: UpdateCounter) -> None:
        """Open the display."""
        self._pace = Pace(update_counter)
        self._display = LiveBar(update_counter) if on_terminal() else PlainLines(self, update_counter)

    def periodic_callback(self, *, update_counter: UpdateCounter, **_: Any) -> None:
        """Update the display."""
        if self._display is not None and self._pace is not None:
            self._display.show(update_counter, self._losses(), self._pace)

    def close(self) -> None:
        """Close the display."""
        if self._display is not None:
            self._display.close()
            self._display = None

    def _losses(self) -> str:
        """Return the total losses logged last, as short text."""
        known = {**self.writer.final_metrics, **self.writer.current_metrics()}
        losses = {key: value for key, value in known.items() if key.startswith("loss/") and "/total" in key}
        return "  ".join(f"{_short(key)} {value:.4g}" for key, value in losses.items())


def _short(key: str) -> str:
    """Shorten `loss/online/total/U50` to `online` and `loss/test/total` to `test`."""
    return key.split("/")[1]


class LiveBar:
    """Live progress bar for a terminal."""

    def __init__(self, counter: UpdateCounter) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}  {task.fields[rate]}  {task.fields[losses]}"),
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
        self._bar.start()
        self._drawn = 0.0

    def show(self, counter: UpdateCounter, metrics: str, pace: Pace) -> None:
        """Redraw, unless the last redraw was a moment ago."""
        now = monotonic()
        if now - self._drawn < _REDRAW_SECONDS and not counter.is_finished:
            return
        self._drawn = now
        self._bar.update(
            self._task,
            completed=counter.update,
            epoch=counter.epoch,
            rate=_rate(counter, pace),
            losses=metrics,
        )
        self._bar.refresh()

    def close(self) -> None:
        """Draw once more and release the terminal."""
        self._bar.refresh()
        self._bar.stop()


class PlainLines:
    """Plain lines for files and pipes."""

    def __init__(self, callback: ProgressCallback, counter: UpdateCounter) -> None:
        self._log = callback.logger
        self._updates = max(counter.end_update // callback.lines, 1)
        self._next = counter.update + self._updates

    def show(self, counter: UpdateCounter, metrics: str, pace: Pace) -> None:
        """Write a line if enough updates have passed since the last one."""
        if counter.update < self._next and not counter.is_finished:
            return
        self._next = counter.update + self._updates
        self._log.info(
            "epoch %d  update %d/%d  %s  %s",
            counter.epoch,
            counter.update,
            counter.end_update,
            _rate(counter, pace),
            metrics,
        )

    def close(self) -> None:
        """Do nothing: no resource is open."""


def _rate(counter: UpdateCounter, pace: Pace) -> str:
    rate, remaining = pace.updates_per_second(counter), pace.remaining_seconds(counter)
    return "" if rate is None or remaining is None else f"{rate:.0f} updates/s  {clock(remaining)} left"
