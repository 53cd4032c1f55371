"""`eta`: how fast the run goes and how long it has to go, as metrics."""

from __future__ import annotations

from typing import Any

from noether.core.callbacks.default.pace import Pace
from noether.core.callbacks.periodic import PeriodicCallback
from noether.core.schemas.callbacks import CallBackBaseConfig
from noether.core.schemas.metric_facts import MetricFacts
from noether.core.utils.training.counter import UpdateCounter


class EtaCallback(PeriodicCallback):
    """Logs `profiling/updates_per_second` and `profiling/remaining_seconds` of this session.

    ```toml
    [[trainer.callbacks]]
    kind = "eta"
    every_n_updates = 50
    ```

    Args:
        callback_config: The interval.
        **kwargs: What `PeriodicCallback` takes.
    """

    calls_model = False

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
        """Log rate and remaining time."""
        if self._pace is None or (rate := self._pace.updates_per_second(update_counter)) is None:
            return
        self.writer.add_scalar("profiling/updates_per_second", rate)
        self.writer.add_scalar("profiling/remaining_seconds", self._pace.remaining_seconds(update_counter) or 0.0)
