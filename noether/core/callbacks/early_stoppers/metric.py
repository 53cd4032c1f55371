"""`metric-early-stopper`: end training when a metric stops improving."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import MetricFacts
from noether.core.callbacks.best_value import BestValue, direction_of
from noether.core.callbacks.periodic import IntervalType, PeriodicCallback
from noether.kernel.progress import EarlyStopIteration, UpdateCounter


class MetricEarlyStopperCallbackConfig(CallBackBaseConfig):
    """Config of the `metric-early-stopper` callback."""

    name: Literal["MetricEarlyStopperCallback"] = Field("MetricEarlyStopperCallback", description="Name of the class.")
    metric_key: str = Field(
        min_length=1, examples=["loss/test/total"], description="Key of the metric that has to improve."
    )
    patience: int = Field(
        ge=1,
        examples=[5],
        description="Intervals in a row without improvement that are tolerated; one more ends training.",
    )
    higher_is_better: bool | None = Field(
        None, description="True if higher values are better; unset: derived from the metric key."
    )


class MetricEarlyStopperCallback(PeriodicCallback):
    """End training when a metric has not improved for more than `patience` intervals in a row.

    ```toml
    [[trainer.callbacks]]
    kind = "metric-early-stopper"
    every_n_epochs = 1
    metric_key = "loss/test/total"
    patience = 5
    ```

    A callback before it in the spec has to log the metric in the same round. Only a finite, strictly better value is an
    improvement. A run that is resumed after it was stopped ends at once, unless `patience` was raised.

    Args:
        callback_config: Interval, metric and patience.
        **kwargs: Arguments of `PeriodicCallback`.

    Raises:
        UnknownDirectionError: if neither the config nor the key tells the direction of the metric.
    """

    calls_model = False
    draws_in_rounds = False

    def __init__(self, callback_config: MetricEarlyStopperCallbackConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self.metric_key = callback_config.metric_key
        self.patience = callback_config.patience
        higher = direction_of(self.metric_key, callback_config.higher_is_better, self.metric_property_provider)
        self._best = BestValue(higher_is_better=higher)

    @classmethod
    def produced_metrics(cls, config: MetricEarlyStopperCallbackConfig, facts: MetricFacts) -> tuple[str, ...]:
        """Return no keys: it logs nothing."""
        return ()

    @classmethod
    def consumed_metrics(cls, config: MetricEarlyStopperCallbackConfig) -> tuple[str, ...]:
        """Return the key of the metric that it follows."""
        return (config.metric_key,)

    def before_training(self, *, update_counter: UpdateCounter) -> None:
        """Stop at once if the patience was exhausted in an earlier session.

        Raises:
            EarlyStopIteration: if it was.
        """
        self._stop_if_exhausted()

    def periodic_callback(self, *, interval_type: IntervalType, **_: Any) -> None:
        """Compare the metric of this round with the best one.

        Raises:
            EarlyStopIteration: if too many intervals in a row had no improvement.
            MissingMetricError: if the metric was not logged in this round.
        """
        if interval_type == "eval":
            return
        self._best.offer(self.writer.current(self.metric_key))
        self._stop_if_exhausted()

    def _stop_if_exhausted(self) -> None:
        if self._best.without_improvement > self.patience:
            best = "it was never finite" if self._best.value is None else f"its best value is {self._best.value:.6g}"
            raise EarlyStopIteration(
                f"{self.metric_key} has not improved for {self._best.without_improvement} intervals, "
                f"patience = {self.patience}; {best}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and the number of intervals since."""
        return self._best.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value of an earlier session."""
        self._best.load_state_dict(state_dict)
