"""Schedules that follow a metric: `reduce-on-plateau`, and the base class for others."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from noether.config.components import ScheduleBaseConfig
from noether.config.metric_facts import MetricPropertyProvider
from noether.optim.schedules import Schedule


class MetricSchedule(Schedule):
    """A factor that depends on the completed updates and on the metrics of earlier boundaries.

    `read` is called with the metrics of each boundary before its checkpoint is committed. What it decides may count
    from the next update on, so `factor` of the update that was just completed must stay as it was.
    """

    @classmethod
    @abstractmethod
    def consumed_metrics(cls, config: Any) -> tuple[str, ...]:
        """Return the metric keys that it reads, for `noether check`."""

    @abstractmethod
    def read(self, update: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics that were logged after `update` completed updates."""

    def take_directions(self, directions: MetricPropertyProvider) -> None:  # optional on purpose
        """Take the directions of the metrics, called before the first `read`: those that callbacks declare too.

        Raises:
            UnknownDirectionError: if it needs a direction that is not known.
        """

    def unread(self) -> list[str]:
        """Return the metric keys that were not logged so far, for a warning at the end."""
        return []

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint holds."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""


class ReduceOnPlateauConfig(ScheduleBaseConfig):
    """Settings of the `reduce-on-plateau` schedule."""

    metric_key: str = Field(
        min_length=1, examples=["loss/test/total"], description="Key of the metric that has to improve."
    )
    higher_is_better: bool | None = Field(
        None, description="True if higher values are better; unset: as callbacks declare it, else by the metric key."
    )
    factor: float = Field(0.1, gt=0, lt=1, description="Factor of each reduction.")
    patience: int = Field(
        10, ge=0, description="Values in a row without improvement that are tolerated; one more reduces."
    )
    threshold: float = Field(1e-4, ge=0, allow_inf_nan=False, description="Smallest change that is an improvement.")
    threshold_mode: Literal["rel", "abs"] = Field(
        "rel", description="rel: `threshold` is a fraction of the best value. abs: it is a difference from it."
    )
    cooldown: int = Field(0, ge=0, description="Values after a reduction that are not counted against the metric.")
    min_factor: float = Field(0.0, ge=0, lt=1, description="Factor on the base value below which nothing is reduced.")


class ReduceOnPlateau(MetricSchedule):
    """Reduces when a metric has stopped improving, as torch.optim.lr_scheduler.ReduceLROnPlateau.

    ```toml
    [model.optimizer]
    kind = "AdamW"
    lr = 1e-3
    schedule = { kind = "reduce-on-plateau", metric_key = "loss/test/total", factor = 0.5, patience = 5 }
    ```

    The metric is read at each boundary that logs it, once an update, after the callbacks of the boundary. A reduction
    counts from the next update on. Only finite values can be an improvement. A checkpoint holds the state.
    """

    schedule_config: ReduceOnPlateauConfig

    def __init__(self, schedule_config: ReduceOnPlateauConfig, *, total_updates: int, updates_per_epoch: int) -> None:
        super().__init__(schedule_config, total_updates=total_updates, updates_per_epoch=updates_per_epoch)
        self._sign = 0.0
        if schedule_config.higher_is_better is not None:
            self._sign = -1.0 if schedule_config.higher_is_better else 1.0
        self.best: float | None = None
        self.without_improvement = 0
        self.cooldown_left = 0
        self.read_at = -1
        self.reduced_at = 0
        self.scale = self.scale_before = 1.0

    @classmethod
    def consumed_metrics(cls, config: ReduceOnPlateauConfig) -> tuple[str, ...]:
        """Return the key of the metric that it follows."""
        return (config.metric_key,)

    def take_directions(self, directions: MetricPropertyProvider) -> None:
        """Take the direction of the metric, unless its config has it.

        Raises:
            UnknownDirectionError: if nothing tells it.
        """
        if self._sign == 0.0:
            self._sign = -1.0 if directions.higher_is_better(self.schedule_config.metric_key) else 1.0

    def factor(self, update: int) -> float:
        """Return the product of the reductions that were decided at or before `update`."""
        return self.scale if update >= self.reduced_at else self.scale_before

    def read(self, update: int, metrics: Mapping[str, float]) -> None:
        """Compare the metric with its best value, and reduce if it has not improved for too long."""
        value = metrics.get(self.schedule_config.metric_key)
        if value is None or update == self.read_at:
            return
        self.read_at = update
        if self._sign == 0.0:  # it was built by hand
            self.take_directions(MetricPropertyProvider())
        if self._improves(value):
            self.best, self.without_improvement = value, 0
        else:
            self.without_improvement += 1
        if self.cooldown_left:
            self.cooldown_left -= 1
            self.without_improvement = 0
        if self.without_improvement > self.schedule_config.patience:
            self._reduce(update)

    def unread(self) -> list[str]:
        """Return the key of the metric if it was never logged."""
        return [] if self.read_at >= 0 else [self.schedule_config.metric_key]

    def _improves(self, value: float) -> bool:
        if not math.isfinite(value) or self.best is None:
            return math.isfinite(value)
        config = self.schedule_config
        margin = config.threshold * (abs(self.best) if config.threshold_mode == "rel" else 1.0)
        return self._sign * value < self._sign * self.best - margin

    def _reduce(self, update: int) -> None:
        config = self.schedule_config
        self.scale_before, self.reduced_at = self.scale, update
        self.scale = max(self.scale * config.factor, min(config.min_factor, self.scale))
        self.cooldown_left, self.without_improvement = config.cooldown, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, the counts since, and the reductions so far."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what an earlier session has read."""
        for name in _STATE:
            setattr(self, name, state[name])


_STATE = ("best", "without_improvement", "cooldown_left", "read_at", "reduced_at", "scale", "scale_before")
