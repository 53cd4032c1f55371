"""Early stoppers: callbacks that end training before its limit."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import MetricFacts, intervals_of
from noether.core.callbacks.best_value import BestValue, direction_of
from noether.core.callbacks.periodic import IntervalType, PeriodicCallback
from noether.kernel.progress import EarlyStopIteration, UpdateCounter

_POINTS = ("stop_at_epoch", "stop_at_update", "stop_at_sample", "stop_after_seconds")


class FixedEarlyStopperCallbackConfig(CallBackBaseConfig):
    """Config of the `fixed-early-stopper` callback; exactly one field sets the end of training."""

    needs_interval: ClassVar[bool] = False

    name: Literal["FixedEarlyStopperCallback"] = Field("FixedEarlyStopperCallback", description="Name of the class.")
    stop_at_epoch: int | None = Field(None, ge=1, examples=[10], description="End after this epoch.")
    stop_at_update: int | None = Field(None, ge=1, examples=[5000], description="End after this update.")
    stop_at_sample: int | None = Field(
        None,
        ge=1,
        examples=[1_000_000],
        description="End with the update that reaches this number of training samples.",
    )
    stop_after_seconds: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        examples=[3600.0],
        json_schema_extra={"unit": "seconds"},
        description="End with the update that reaches this training time, earlier sessions of the run included.",
    )

    @model_validator(mode="after")
    def _ends_at_one_point(self) -> FixedEarlyStopperCallbackConfig:
        given = [name for name in _POINTS if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"wrong number of end points: found {found}, expected exactly one of {', '.join(_POINTS)}")
        if interval := intervals_of(self).verbose:
            raise ValueError(
                f"unexpected interval: found {interval}, expected none; remove {interval.partition('=')[0]}"
            )
        return self

    @property
    def point(self) -> str:
        """The end of training as the spec gives it: `stop_at_epoch = 10`."""
        return next(f"{name} = {value}" for name in _POINTS if (value := getattr(self, name)) is not None)


class FixedEarlyStopperCallback(PeriodicCallback):
    """End training at an epoch, an update, a sample, or after a duration.

    ```toml
    [[trainer.callbacks]]
    kind = "fixed-early-stopper"
    stop_after_seconds = 3600.0
    ```

    Learning rate schedules still follow the limit of the trainer (`max_epochs`) and are cut off. A run that is resumed
    after it was stopped ends at once, unless the end was moved.

    Args:
        callback_config: The end of training.
        clock: Clock in seconds, from any origin.
        **kwargs: Arguments of `PeriodicCallback`.
    """

    calls_model = False
    draws_in_rounds = False

    def __init__(
        self, callback_config: FixedEarlyStopperCallbackConfig, clock: Callable[[], float] = monotonic, **kwargs: Any
    ) -> None:
        super().__init__(callback_config, **kwargs)
        self._point = callback_config.point
        self._clock = clock
        self._session_began: float | None = None
        self._earlier_seconds = 0.0
        # An interval of this length fires for the first time at the end of training.
        self.every_n_epochs = callback_config.stop_at_epoch
        self.every_n_updates = callback_config.stop_at_update
        self.every_n_samples = callback_config.stop_at_sample
        self._limit = callback_config.stop_after_seconds
        if self._limit is not None:
            self.track_after_update_step = self._stop_in_time  # type: ignore[method-assign]  # no cost for the others

    @classmethod
    def produced_metrics(cls, config: FixedEarlyStopperCallbackConfig, facts: MetricFacts) -> tuple[str, ...]:
        """Return no keys: it logs nothing."""
        return ()

    @property
    def elapsed_seconds(self) -> float:
        """Seconds of training so far, over all sessions."""
        session = 0.0 if self._session_began is None else self._clock() - self._session_began
        return self._earlier_seconds + session

    def before_training(self, *, update_counter: UpdateCounter) -> None:
        """Start the clock; stop at once if the run has reached its end already.

        Raises:
            EarlyStopIteration: if the end is reached.
        """
        self.close()  # an earlier training of the same trainer counts
        self._session_began = self._clock()
        sizes = update_counter.updates_per_epoch, update_counter.effective_batch_size
        if update_counter.update >= self.intervals.next_due_update(0, *sizes):
            self._stop()
        self._stop_in_time()

    def periodic_callback(self, *, interval_type: IntervalType, **_: Any) -> None:
        """End training.

        Raises:
            EarlyStopIteration: always, except in an evaluation outside of training.
        """
        if interval_type != "eval":
            self._stop()

    def close(self) -> None:
        """Stop the clock, and keep the seconds for another training."""
        self._earlier_seconds, self._session_began = self.elapsed_seconds, None

    def _stop_in_time(self, **_: Any) -> None:
        if self._limit is not None and self.elapsed_seconds >= self._limit:
            self._stop()

    def _stop(self) -> None:
        raise EarlyStopIteration(f"{self._point} is reached")

    def state_dict(self) -> dict[str, Any] | None:
        """Return the training time; None if no time limit is set."""
        return None if self._limit is None else {"seconds": self.elapsed_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the training time of earlier sessions."""
        self._earlier_seconds = state_dict["seconds"]


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
