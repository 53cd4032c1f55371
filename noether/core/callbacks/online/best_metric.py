"""`best-metric`: values of other metrics in the round in which one metric was best."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import MetricFacts
from noether.core.callbacks.early_stoppers import BestValue, direction_of
from noether.core.callbacks.periodic import IntervalType, PeriodicCallback


class BestMetricCallbackConfig(CallBackBaseConfig):
    """Config of the `best-metric` callback."""

    name: Literal["BestMetricCallback"] = Field("BestMetricCallback", description="Name of the class.")
    source_metric_key: str = Field(
        min_length=1, examples=["loss/val/total"], description="Key of the metric whose best value is followed."
    )
    target_metric_keys: list[str] | None = Field(
        None, examples=[["loss/test/total"]], description="Keys of metrics to log as they were in the best round."
    )
    optional_target_metric_keys: list[str] | None = Field(
        None,
        examples=[["accuracy/test/label"]],
        description="The same for metrics that may be missing in a round; they are then left out.",
    )
    higher_is_better: bool | None = Field(
        None, description="True if higher values of the source are better; unset: derived from its key."
    )

    @model_validator(mode="after")
    def _has_a_target(self) -> BestMetricCallbackConfig:
        if not self.target_metric_keys and not self.optional_target_metric_keys:
            raise ValueError(
                'no target metrics: found none, expected at least one, such as target_metric_keys = ["loss/test/total"]'
            )
        return self


class BestMetricCallback(PeriodicCallback):
    """Log the targets of the source's best round so far, as `{target}/at_best/{source}`.

    Only a finite, strictly better value is a new best. In all other rounds the values of the best round are logged
    again, so that the curves stay flat; nothing is logged before the first best. An optional target that was not logged
    in the best round has no value until the next best. An evaluation outside of training neither changes the best
    nor logs anything.

    ```toml
    [[trainer.callbacks]]
    kind = "best-metric"
    every_n_epochs = 1
    source_metric_key = "loss/val/total"
    target_metric_keys = ["loss/test/total"]
    ```

    Attributes:
        higher_is_better: True if higher values of the source are better.

    Raises:
        UnknownDirectionError: if neither the config nor the key tells the direction of the source.
    """

    calls_model = False
    draws_in_rounds = False

    def __init__(self, callback_config: BestMetricCallbackConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self.source_metric_key = callback_config.source_metric_key
        self.target_metric_keys = list(callback_config.target_metric_keys or [])
        self.optional_target_metric_keys = list(callback_config.optional_target_metric_keys or [])
        self.higher_is_better = direction_of(
            self.source_metric_key, callback_config.higher_is_better, self.metric_property_provider
        )
        self._best = BestValue(higher_is_better=self.higher_is_better)
        self._at_best: dict[str, float] = {}

    @classmethod
    def produced_metrics(cls, config: BestMetricCallbackConfig, facts: MetricFacts) -> tuple[str, ...]:
        """Return the keys that it logs."""
        targets = dict.fromkeys((config.target_metric_keys or []) + (config.optional_target_metric_keys or []))
        return tuple(f"{target}/at_best/{config.source_metric_key}" for target in targets)

    @classmethod
    def consumed_metrics(cls, config: BestMetricCallbackConfig) -> tuple[str, ...]:
        """Return the source and the targets that are not optional."""
        return tuple(dict.fromkeys((config.source_metric_key, *(config.target_metric_keys or ()))))

    @classmethod
    def compared_metrics(cls, config: BestMetricCallbackConfig) -> tuple[str, ...]:
        """Return the source, unless the config sets its direction; targets are never compared."""
        return (config.source_metric_key,) if config.higher_is_better is None else ()

    @property
    def best_metric_value(self) -> float:
        """Best value of the source; before the first one the worst possible, an infinity."""
        return self._best.or_worst

    @best_metric_value.setter
    def best_metric_value(self, value: float) -> None:
        self._best.begin_from(value)

    def periodic_callback(self, *, interval_type: IntervalType = "epoch", **_: Any) -> None:
        """Compare the source with its best, and log the targets of the best round.

        Raises:
            MissingMetricError: if the source or a target was not logged in this round; it is a `KeyError`.
        """
        if interval_type == "eval":
            return
        source, targets = self.writer.current(self.source_metric_key), self._targets()
        if self._best.offer(source):
            self._at_best = targets
        for target, value in self._at_best.items():
            self.writer.add_scalar(f"{target}/at_best/{self.source_metric_key}", value)

    def _targets(self) -> dict[str, float]:
        present = set(self.writer.keys())
        optional = [key for key in self.optional_target_metric_keys if key in present]
        return {key: self.writer.current(key) for key in (*self.target_metric_keys, *optional)}

    def state_dict(self) -> dict[str, Any] | None:
        """Return the best value and the targets of its round; None before the first best."""
        if self._best.value is None:
            return None
        return {**self._best.state_dict(), "at_best": dict(self._at_best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value and its targets."""
        self._best.load_state_dict(state_dict)
        self._at_best = dict(state_dict["at_best"])
