"""The best value of a metric with patience, and the callbacks that end training early."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import MetricPropertyProvider, intervals_of
from noether.core.callbacks.base import logs
from noether.core.callbacks.periodic import IntervalType, PeriodicCallback
from noether.kernel.progress import EarlyStopIteration, UpdateCounter


def direction_of(metric_key: str, higher_is_better: bool | None, directions: MetricPropertyProvider) -> bool:
    """Return True if higher values of a metric are better: as configured, else by the name of the metric.

    Raises:
        UnknownDirectionError: if neither the config nor the name tells.
    """
    return directions.higher_is_better(metric_key) if higher_is_better is None else higher_is_better


class BestValue:
    """Follow one metric: a finite, strictly better value is a new best; of equal values the first one stays.

    Args:
        higher_is_better: True if a higher value is better.

    Attributes:
        value: The best value; None before the first finite one.
        without_improvement: Number of values since the best one.
    """

    __slots__ = ("higher_is_better", "value", "without_improvement")

    def __init__(self, *, higher_is_better: bool) -> None:
        self.higher_is_better = higher_is_better
        self.value: float | None = None
        self.without_improvement = 0

    @property
    def or_worst(self) -> float:
        """The best value; before the first one the worst possible, an infinity."""
        if self.value is None:
            return -math.inf if self.higher_is_better else math.inf
        return self.value

    def begin_from(self, value: float) -> None:
        """Set the best value; one that is not finite stands for none."""
        self.value = float(value) if math.isfinite(value) else None

    def offer(self, value: float) -> bool:
        """Take the next value, and return True if it is a new best."""
        is_best = math.isfinite(value) and (
            self.value is None or (value > self.value if self.higher_is_better else value < self.value)
        )
        self.without_improvement = 0 if is_best else self.without_improvement + 1
        if is_best:
            self.value = value
        return is_best

    def state_dict(self) -> dict[str, Any]:
        """Return the state that the next value is compared with."""
        return {"best": self.value, "without_improvement": self.without_improvement}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the state of an earlier session."""
        self.value, self.without_improvement = state["best"], state["without_improvement"]


class Offered(NamedTuple):
    """The changes that one value made.

    Attributes:
        is_best: True for a new best.
        exceeded: Tolerances that are exceeded with this value; each is exceeded once.
    """

    is_best: bool
    exceeded: tuple[int, ...]


class Tolerances:
    """Follow one metric with several tolerances at once.

    A tolerance of n is exceeded once: when more than n intervals in a row had no new best. Later values do not count
    for it, as a run that stops there would not have seen them.

    Args:
        tolerances: Numbers of intervals without a new best that are tolerated.
        higher_is_better: True if a higher value is better.

    Attributes:
        tolerances: The tolerances in rising order, each once.
        best: The best value so far.
        kept: The best value at the moment when a tolerance was exceeded, by tolerance; None if there was none.
    """

    def __init__(self, tolerances: Iterable[int] = (), *, higher_is_better: bool) -> None:
        self.tolerances = tuple(sorted(set(tolerances)))
        self.best = BestValue(higher_is_better=higher_is_better)
        self.kept: dict[int, float | None] = {}

    def offer(self, value: float) -> Offered:
        """Take the value of one interval."""
        is_best = self.best.offer(value)
        without = self.best.without_improvement
        exceeded = tuple(n for n in self.tolerances if n < without and n not in self.kept)
        self.kept |= dict.fromkeys(exceeded, self.best.value)
        return Offered(is_best, exceeded)

    def best_within(self, tolerance: int) -> float | None:
        """Return the best value that stopping with this tolerance would keep: the best so far if it still holds."""
        return self.kept.get(tolerance, self.best.value)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that the next value is compared with."""
        return {**self.best.state_dict(), "kept": dict(self.kept)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the state of an earlier session; tolerances that are no longer followed are forgotten."""
        self.best.load_state_dict(state)
        self.kept = {n: value for n, value in state["kept"].items() if n in self.tolerances}


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
    produced_metrics = logs()

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

    Raises:
        UnknownDirectionError: if neither the config nor the key tells the direction of the metric.
    """

    calls_model = False
    draws_in_rounds = False
    produced_metrics = logs()

    def __init__(self, callback_config: MetricEarlyStopperCallbackConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self.metric_key = callback_config.metric_key
        self.patience = callback_config.patience
        higher = direction_of(self.metric_key, callback_config.higher_is_better, self.metric_property_provider)
        self._best = BestValue(higher_is_better=higher)

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
