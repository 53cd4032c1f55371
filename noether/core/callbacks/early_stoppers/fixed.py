"""`fixed-early-stopper`: end training at a given epoch, update or sample, or after a given time."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import MetricFacts, intervals_of
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
