"""`progress`: a live progress bar on a terminal and in a notebook, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from pydantic import Field

from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import TRAINING_LOSS, MetricFacts, is_evaluation
from noether.core.callbacks.display import LiveBar, NotebookBar, Pace, PlainLines, Readings, in_notebook, on_terminal
from noether.core.callbacks.periodic import PeriodicCallback
from noether.kernel.progress import UpdateCounter


class ProgressConfig(CallBackBaseConfig):
    """Config of the `progress` callback."""

    lines: int = Field(20, ge=1, description="Number of plain lines over the whole run, if there is no terminal.")


class ProgressDisplay(Protocol):
    """Display of the progress of a run."""

    def show(self, counter: UpdateCounter, readings: Callable[[], Readings], pace: Pace, *, is_last: bool) -> bool:
        """Show the current counts, rate and values; return False if it is too early for that."""

    def close(self) -> None:
        """Release the output."""


class ProgressCallback(PeriodicCallback):
    """Show epoch, update, rate, remaining time, the mean training loss since the last display, and evaluations.

    On a terminal and in a notebook that is a live bar with the last results of evaluations. Elsewhere it is a number of
    lines; the result of an evaluation stands in the first line after it.

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
        self._written: list[Mapping[str, float]] = []  # lines of metrics since the last display
        self._note = self._written.append
        self._results: dict[str, float] = {}
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
        if in_notebook():
            self._display = NotebookBar(update_counter)
        elif on_terminal():
            self._display = LiveBar(update_counter)
        else:
            self._display = PlainLines(self.logger, self.lines, update_counter)

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
        if self._display.show(counter, self._read, self._pace, is_last=is_last):
            self._written.clear()

    def close(self) -> None:
        """Close the display."""
        if self._display is not None:
            self._display.close()
            self._display = None
        if self._note in self.writer.on_written:
            self.writer.on_written.remove(self._note)

    def _read(self) -> Readings:
        """Return the mean training loss since the last display, else the last one, and the results of evaluations."""
        losses = [line[TRAINING_LOSS] for line in self._written if TRAINING_LOSS in line]
        new = {key: value for line in self._written for key, value in line.items() if is_evaluation(key)}
        self._results |= new
        training = sum(losses) / len(losses) if losses else self.writer.written_metrics.get(TRAINING_LOSS)
        return Readings(training, self._results, new)
