"""`eta`: updates per second and remaining time, as metrics."""

from __future__ import annotations

from typing import Any

from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import MetricFacts
from noether.core.callbacks.display import Pace
from noether.core.callbacks.periodic import PeriodicCallback
from noether.kernel.progress import UpdateCounter


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
