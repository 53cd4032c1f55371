"""`eta`: updates per second and remaining time, as metrics."""

from __future__ import annotations

from time import monotonic
from typing import Any

from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import MetricFacts
from noether.core.callbacks.periodic import PeriodicCallback
from noether.kernel.progress import UpdateCounter


class Pace:
    """Updates per second since this session began."""

    def __init__(self, update_counter: UpdateCounter) -> None:
        self._first_update = update_counter.update
        self._started = monotonic()

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since this session began."""
        return monotonic() - self._started

    def updates_per_second(self, update_counter: UpdateCounter) -> float | None:
        """Return the rate of this session; None before its first update."""
        updates = update_counter.update - self._first_update
        return updates / max(self.elapsed_seconds, 1e-9) if updates else None

    def remaining_seconds(self, update_counter: UpdateCounter) -> float | None:
        """Return the remaining seconds at that rate; None before the first update."""
        rate = self.updates_per_second(update_counter)
        return None if rate is None else (update_counter.end_update - update_counter.update) / rate


def clock(seconds: float) -> str:
    """Format seconds as `1:02:03` or `02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


class EtaCallback(PeriodicCallback):
    """Log `profiling/updates_per_second` and `profiling/remaining_seconds` of this session.

    ```toml
    [[trainer.callbacks]]
    kind = "eta"
    every_n_updates = 50
    ```

    Args:
        callback_config: The interval.
        **kwargs: Arguments of `PeriodicCallback`.
    """

    calls_model = False
    draws_in_rounds = False

    def __init__(self, callback_config: CallBackBaseConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self._pace: Pace | None = None

    @classmethod
    def produced_metrics(cls, config: CallBackBaseConfig, facts: MetricFacts) -> tuple[str, ...]:
        """Return the keys that it logs."""
        return ("profiling/updates_per_second", "profiling/remaining_seconds")

    def before_training(self, *, update_counter: UpdateCounter) -> None:
        """Start measuring."""
        self._pace = Pace(update_counter)

    def periodic_callback(self, *, update_counter: UpdateCounter, **_: Any) -> None:
        """Log the rate and the remaining time."""
        if self._pace is None or (rate := self._pace.updates_per_second(update_counter)) is None:
            return
        self.writer.add_scalar("profiling/updates_per_second", rate)
        self.writer.add_scalar("profiling/remaining_seconds", self._pace.remaining_seconds(update_counter) or 0.0)
