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
        if self._pace is None or (estimate := self._pace.estimate(update_counter)) is None:
            return
        rate, remaining = estimate
        self.writer.add_scalar("profiling/updates_per_second", rate)
        self.writer.add_scalar("profiling/remaining_seconds", remaining)
