"""`metric-early-stopper`: end training when a metric has stopped getting better."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import MetricFacts
from noether.core.callbacks.best_value import BestValue
from noether.core.callbacks.periodic import IntervalType, PeriodicCallback
from noether.kernel.progress import EarlyStopIteration, UpdateCounter


class MetricEarlyStopperCallbackConfig(CallBackBaseConfig):
    """Settings of the `metric-early-stopper` callback."""

    name: Literal["MetricEarlyStopperCallback"] = Field("MetricEarlyStopperCallback", description="Name of the class.")
    metric_key: str = Field(
        min_length=1, examples=["loss/test/total"], description="The metric that has to get better."
    )
    patience: int = Field(
        ge=1,
        examples=[5],
        description="Intervals in a row without a better value that are tolerated; one more ends training.",
    )
    higher_is_better: bool | None = Field(
        None, description="Whether a higher value is a better one; unset: as the name of the metric tells."
    )


class MetricEarlyStopperCallback(PeriodicCallback):
    """Ends training when a metric has not got better for more than `patience` intervals in a row.

    ```toml
    [[trainer.callbacks]]
    kind = "metric-early-stopper"
    every_n_epochs = 1
    metric_key = "loss/test/total"
    patience = 5
    ```

    The metric has to be logged in the same round, by a callback that comes before it in the spec. Better means strictly
    better: neither an equal value nor one that is not finite is an improvement. A run that is resumed where it was
    stopped ends at once, unless `patience` was raised.

    Args:
        callback_config: Interval, metric and patience.
        **kwargs: What `PeriodicCallback` takes.

    Raises:
        UnknownDirectionError: Nothing says which way the metric gets better.
    """

    def __init__(self, callback_config: MetricEarlyStopperCallbackConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self.metric_key = callback_config.metric_key
        self.patience = callback_config.patience
        higher = callback_config.higher_is_better
        if higher is None:
            higher = self.metric_property_provider.higher_is_better(self.metric_key)
        self._best = BestValue(higher_is_better=higher)
        self._without_improvement = 0

    @classmethod
    def produced_metrics(cls, config: MetricEarlyStopperCallbackConfig, facts: MetricFacts) -> tuple[str, ...]:
        """It logs nothing."""
        return ()

    @classmethod
    def consumed_metrics(cls, config: MetricEarlyStopperCallbackConfig) -> tuple[str, ...]:
        """Return the metric that it follows."""
        return (config.metric_key,)

    def before_training(self, *, update_counter: UpdateCounter) -> None:
        """Go no further where an earlier session has ended here.

        Raises:
            EarlyStopIteration: It has.
        """
        self._stop_if_exhausted()

    def periodic_callback(self, *, interval_type: IntervalType, **_: Any) -> None:
        """Compare the metric of this round with the best one.

        Raises:
            EarlyStopIteration: There were too many intervals without a better one.
            MissingMetricError: Nobody has logged the metric in this round.
        """
        if interval_type == "eval":
            return
        improved = self._best.offer(self.writer.current(self.metric_key))
        self._without_improvement = 0 if improved else self._without_improvement + 1
        self._stop_if_exhausted()

    def _stop_if_exhausted(self) -> None:
        if self._without_improvement > self.patience:
            best = "it was never finite" if self._best.value is None else f"its best value is {self._best.value:.6g}"
            raise EarlyStopIteration(
                f"{self.metric_key} has not improved for {self._without_improvement} intervals, "
                f"patience = {self.patience}; {best}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and for how long there was no better one."""
        return {"best": self._best.value, "without_improvement": self._without_improvement}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best value of an earlier session."""
        self._best.value = state_dict["best"]
        self._without_improvement = state_dict["without_improvement"]
