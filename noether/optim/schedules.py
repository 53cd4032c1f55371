"""Schedules: pure functions from completed updates to a factor on the learning rate."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import Field

from noether.config.components import ScheduleBaseConfig
from noether.errors import SpecError


class Schedule(ABC):
    """A factor on a base value (learning rate, weight decay) as a pure function of the completed updates.

    Nothing is counted and nothing is stored, so a resumed run continues its schedule by construction.

    Args:
        schedule_config: The schedule's own settings.
        total_updates: Updates of the whole run.
        updates_per_epoch: Updates in one pass over the training set.
    """

    def __init__(self, schedule_config: ScheduleBaseConfig, *, total_updates: int, updates_per_epoch: int) -> None:
        self.schedule_config = schedule_config
        self.total_updates = max(total_updates, 1)
        self.updates_per_epoch = updates_per_epoch

    @abstractmethod
    def factor(self, update: int) -> float:
        """Return the factor in force for the update after `update` completed ones."""

    def length(self, name: str, *, default: int | None = None) -> int:
        """Return the length in updates that `<name>_updates`, `<name>_epochs` or `<name>_percent` sets.

        Raises:
            SpecError: if several of them are set, or none and there is no default.
        """
        units = {
            f"{name}_updates": 1.0,
            f"{name}_epochs": float(self.updates_per_epoch),
            f"{name}_percent": self.total_updates / 100,
        }
        fields = [field for field in units if field in type(self.schedule_config).model_fields]
        asked = {field: getattr(self.schedule_config, field) for field in fields}
        given: dict[str, float] = {field: value for field, value in asked.items() if value is not None}
        if len(given) > 1 or (not given and default is None):
            wanted = f"{', '.join(fields[:-1])} or {fields[-1]}"
            found = " and ".join(f"{field} = {value}" for field, value in given.items()) or "none"
            raise SpecError(
                f"wrong length of the schedule '{self.schedule_config.kind}': found {found}, expected exactly one of "
                f"{wanted}",
                hint=f"set one of {wanted} in its table",
            )
        if not given:
            assert default is not None
            return default
        ((unit, value),) = given.items()
        return round(value * units[unit])


class Scheduled:
    """One value of every parameter group (`lr`, `weight_decay`) under a schedule."""

    def __init__(self, key: str, schedule: Schedule, groups: Iterable[dict[str, Any]]) -> None:
        self.key = key
        self.schedule = schedule
        self._factor = 1.0
        self._targets: list[tuple[dict[str, Any], Any]] = []
        self.include(groups)

    def include(self, groups: Iterable[dict[str, Any]]) -> None:
        """Take groups under the schedule; the value that each has now is the one that the factor is for."""
        for group in groups:
            self._targets.append((group, group[self.key]))
            group[self.key] = group[self.key] * self._factor

    def follow(self, groups: Sequence[dict[str, Any]]) -> None:
        """Set the values of these groups from now on: torch makes new ones when it loads a state."""
        self._targets = [(group, base) for group, (_, base) in zip(groups, self._targets, strict=True)]

    def apply(self, update: int) -> None:
        """Set the value that is in force after `update` completed updates."""
        self._factor = factor = self.schedule.factor(update)
        for group, base in self._targets:
            group[self.key] = base * factor


class ConstantConfig(ScheduleBaseConfig):
    """Settings of the `constant` schedule."""

    scale: float = Field(1.0, ge=0, description="Factor while the schedule lasts.")
    hold_updates: int | None = Field(
        None, ge=0, examples=[500], description="Updates that `scale` holds for; unset: the whole run."
    )
    hold_epochs: float | None = Field(None, ge=0, examples=[2], description="The same in epochs.")


class Constant(Schedule):
    """Holds `scale`, afterwards 1."""

    def __init__(self, schedule_config: ConstantConfig, *, total_updates: int, updates_per_epoch: int) -> None:
        super().__init__(schedule_config, total_updates=total_updates, updates_per_epoch=updates_per_epoch)
        self.scale = schedule_config.scale
        self.hold = self.length("hold", default=self.total_updates + 1)

    def factor(self, update: int) -> float:
        """Return `scale` before the end of the hold, 1 from there on."""
        return self.scale if update < self.hold else 1.0


class LinearConfig(ScheduleBaseConfig):
    """Settings of the `linear` schedule."""

    start: float = Field(1.0, ge=0, description="Factor at the first update.")
    end: float = Field(0.0, ge=0, description="Factor at the end of the line and from there on.")
    over_updates: int | None = Field(
        None, ge=1, examples=[5000], description="Updates that the line takes; unset: the whole run."
    )
    over_epochs: float | None = Field(None, gt=0, examples=[20], description="The same in epochs.")


class Linear(Schedule):
    """Moves linearly from `start` to `end`."""

    def __init__(self, schedule_config: LinearConfig, *, total_updates: int, updates_per_epoch: int) -> None:
        super().__init__(schedule_config, total_updates=total_updates, updates_per_epoch=updates_per_epoch)
        self.start = schedule_config.start
        self.end = schedule_config.end
        self.over = max(self.length("over", default=self.total_updates), 1)

    def factor(self, update: int) -> float:
        """Return `start + (end - start) * update / over`, constant after `over`."""
        return self.start + (self.end - self.start) * min(update, self.over) / self.over


class CosineConfig(ScheduleBaseConfig):
    """Settings of the `cosine` schedule."""

    end: float = Field(0.0, ge=0, description="Factor at the end of the half wave and from there on.")
    over_updates: int | None = Field(
        None, ge=1, examples=[5000], description="Updates of the half wave; unset: the whole run."
    )
    over_epochs: float | None = Field(None, gt=0, examples=[20], description="The same in epochs.")


class Cosine(Schedule):
    """Anneals along a half cosine (Loshchilov and Hutter, 2017, equation 5, without restarts)."""

    def __init__(self, schedule_config: CosineConfig, *, total_updates: int, updates_per_epoch: int) -> None:
        super().__init__(schedule_config, total_updates=total_updates, updates_per_epoch=updates_per_epoch)
        self.end = schedule_config.end
        self.over = max(self.length("over", default=self.total_updates), 1)

    def factor(self, update: int) -> float:
        """Return `end + (1 - end) * (1 + cos(pi * update / over)) / 2`, constant after `over`."""
        progress = min(update, self.over) / self.over
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * progress)) / 2


class CosineRestartsConfig(ScheduleBaseConfig):
    """Settings of the `cosine-restarts` schedule."""

    end: float = Field(0.0, ge=0, description="Factor at the end of each wave.")
    first_updates: int | None = Field(None, ge=1, examples=[1000], description="Updates of the first wave.")
    first_epochs: float | None = Field(None, gt=0, examples=[5], description="The same in epochs.")
    first_percent: float | None = Field(
        None, gt=0, le=100, examples=[10], description="The same in percent of the run."
    )
    growth: int = Field(1, ge=1, description="Length of each wave as a multiple of the one before.")


class CosineRestarts(Schedule):
    """Anneals and restarts (SGDR, Loshchilov and Hutter, 2017)."""

    def __init__(self, schedule_config: CosineRestartsConfig, *, total_updates: int, updates_per_epoch: int) -> None:
        super().__init__(schedule_config, total_updates=total_updates, updates_per_epoch=updates_per_epoch)
        self.end = schedule_config.end
        self.first = max(self.length("first"), 1)
        self.growth = schedule_config.growth

    def factor(self, update: int) -> float:
        """Return the half cosine of the wave that `update` falls into."""
        wave, within = self.first, update
        while within >= wave:
            within -= wave
            wave *= self.growth
            if self.growth == 1:
                within %= wave
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * within / wave)) / 2


class CyclicConfig(ScheduleBaseConfig):
    """Settings of the `cyclic` schedule; the base value is the top of the wave."""

    floor: float = Field(0.1, ge=0, description="Factor at the foot of the wave.")
    up_updates: int | None = Field(None, ge=1, examples=[500], description="Updates from the foot to the top.")
    up_epochs: float | None = Field(None, gt=0, examples=[2], description="The same in epochs.")
    up_percent: float | None = Field(None, gt=0, le=100, examples=[5], description="The same in percent of the run.")
    mode: Literal["triangular", "triangular2"] = Field(
        "triangular",
        description="triangular: all waves have the same height. triangular2: the height halves with each wave.",
    )


class Cyclic(Schedule):
    """Oscillates between `floor` and 1 (Smith, 2017)."""

    def __init__(self, schedule_config: CyclicConfig, *, total_updates: int, updates_per_epoch: int) -> None:
        super().__init__(schedule_config, total_updates=total_updates, updates_per_epoch=updates_per_epoch)
        self.floor = schedule_config.floor
        self.up = max(self.length("up"), 1)
        self.halves = schedule_config.mode == "triangular2"

    def factor(self, update: int) -> float:
        """Return the height of the triangle wave at `update`."""
        cycle, within = divmod(update, 2 * self.up)
        height = 1 - abs(within / self.up - 1)
        return self.floor + (1 - self.floor) * height * (0.5**cycle if self.halves else 1.0)


class ExponentialConfig(ScheduleBaseConfig):
    """Settings of the `exponential` schedule."""

    gamma: float = Field(gt=0, examples=[0.999], description="Factor for one `unit`.")
    unit: Literal["update", "epoch"] = Field("update", description="Unit of time for which `gamma` is the factor.")


class Exponential(Schedule):
    """Decays as `gamma ** progress`; with `unit = "epoch"` it moves at epoch boundaries only."""

    def __init__(self, schedule_config: ExponentialConfig, *, total_updates: int, updates_per_epoch: int) -> None:
        super().__init__(schedule_config, total_updates=total_updates, updates_per_epoch=updates_per_epoch)
        self.gamma = schedule_config.gamma
        self.every = 1 if schedule_config.unit == "update" else updates_per_epoch

    def factor(self, update: int) -> float:
        """Return `gamma` to the power of the completed units."""
        return float(self.gamma ** (update // self.every))


class LinearWarmupCosineDecayConfig(ScheduleBaseConfig):
    """Settings of the `linear-warmup-cosine-decay` schedule."""

    warmup_updates: int | None = Field(None, ge=0, examples=[500], description="Updates of the rise.")
    warmup_epochs: float | None = Field(None, ge=0, examples=[2], description="The same in epochs.")
    warmup_percent: float | None = Field(
        None, ge=0, le=100, examples=[5], description="The same in percent of the run."
    )
    start: float = Field(0.0, ge=0, description="Factor that the rise begins from (not used itself when 0).")
    end: float = Field(0.0, ge=0, description="Factor at the end of the run.")


class LinearWarmupCosineDecay(Schedule):
    """Warms up to 1 and decays to `end`.

    The first update runs at `start + (1 - start) / warmup`, so that no update is wasted on a rate of zero.
    """

    def __init__(
        self, schedule_config: LinearWarmupCosineDecayConfig, *, total_updates: int, updates_per_epoch: int
    ) -> None:
        super().__init__(schedule_config, total_updates=total_updates, updates_per_epoch=updates_per_epoch)
        self.start = schedule_config.start
        self.end = schedule_config.end
        self.warmup = self.length("warmup", default=0)
        self.decay = max(self.total_updates - self.warmup, 1)

    def factor(self, update: int) -> float:
        """Return the height on the rise, or on the half cosine after it."""
        if update < self.warmup:
            return self.start + (1 - self.start) * (update + 1) / self.warmup
        progress = min((update - self.warmup) / self.decay, 1.0)
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * progress)) / 2


class MultiStepConfig(ScheduleBaseConfig):
    """Settings of the `multi-step` schedule."""

    milestones: list[int] = Field(
        examples=[[3000, 4500]],
        json_schema_extra={"unit": "updates"},
        description="Completed updates at which `gamma` is multiplied in.",
    )
    gamma: float = Field(0.1, gt=0, description="Factor of each milestone.")


class MultiStep(Schedule):
    """Falls by `gamma` at each milestone."""

    def __init__(self, schedule_config: MultiStepConfig, *, total_updates: int, updates_per_epoch: int) -> None:
        super().__init__(schedule_config, total_updates=total_updates, updates_per_epoch=updates_per_epoch)
        self.gamma = schedule_config.gamma
        self.milestones = sorted(schedule_config.milestones)

    def factor(self, update: int) -> float:
        """Return `gamma` to the power of the milestones passed."""
        return float(self.gamma ** bisect_right(self.milestones, update))


class OneCycleConfig(ScheduleBaseConfig):
    """Settings of the `one-cycle` schedule; the base value is the peak."""

    rise: float = Field(0.3, gt=0, lt=1, description="Part of the run spent rising.")
    anneal: Literal["cos", "linear"] = Field("cos", description="Shape of both slopes.")
    start_divisor: float = Field(25.0, gt=0, description="The first value is the peak divided by this.")
    end_divisor: float = Field(1e4, gt=0, description="The last value is the first divided by this.")


class OneCycle(Schedule):
    """Rises and anneals once over the whole run (Smith and Topin, 2018)."""

    def __init__(self, schedule_config: OneCycleConfig, *, total_updates: int, updates_per_epoch: int) -> None:
        super().__init__(schedule_config, total_updates=total_updates, updates_per_epoch=updates_per_epoch)
        self.first = 1 / schedule_config.start_divisor
        self.last = self.first / schedule_config.end_divisor
        self.peak_at = schedule_config.rise * self.total_updates - 1  # torch counts from the first update, 0
        self.end_at = self.total_updates - 1
        self.cosine = schedule_config.anneal == "cos"

    def factor(self, update: int) -> float:
        """Return the value on the rising slope up to the peak, on the falling one after it."""
        update = min(update, max(self.end_at, 0))
        if update <= self.peak_at:
            return self._between(self.first, 1.0, update / self.peak_at if self.peak_at else 1.0)
        span = self.end_at - self.peak_at
        return self._between(1.0, self.last, (update - self.peak_at) / span if span else 1.0)

    def _between(self, start: float, end: float, progress: float) -> float:
        if self.cosine:
            return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))
        return start + (end - start) * progress


class PolynomialConfig(ScheduleBaseConfig):
    """Settings of the `polynomial` schedule."""

    power: float = Field(1.0, gt=0, description="Exponent of the decay; 1 is a straight line.")
    over_updates: int | None = Field(
        None, ge=1, examples=[5000], description="Updates of the decay; unset: the whole run."
    )
    over_epochs: float | None = Field(None, gt=0, examples=[20], description="The same in epochs.")


class Polynomial(Schedule):
    """Decays as `(1 - update / over) ** power`."""

    def __init__(self, schedule_config: PolynomialConfig, *, total_updates: int, updates_per_epoch: int) -> None:
        super().__init__(schedule_config, total_updates=total_updates, updates_per_epoch=updates_per_epoch)
        self.power = schedule_config.power
        self.over = max(self.length("over", default=self.total_updates), 1)

    def factor(self, update: int) -> float:
        """Return the power of the fraction that is left, zero after `over`."""
        return float((1 - min(update, self.over) / self.over) ** self.power)


class StepConfig(ScheduleBaseConfig):
    """Settings of the `step` schedule."""

    gamma: float = Field(0.1, gt=0, description="Factor at each drop.")
    every_updates: int | None = Field(None, ge=1, examples=[1000], description="Updates between drops.")
    every_epochs: float | None = Field(None, gt=0, examples=[10], description="The same in epochs.")
    every_percent: float | None = Field(
        None, gt=0, le=100, examples=[30], description="The same in percent of the run."
    )


class Step(Schedule):
    """Drops by `gamma` at equal intervals."""

    def __init__(self, schedule_config: StepConfig, *, total_updates: int, updates_per_epoch: int) -> None:
        super().__init__(schedule_config, total_updates=total_updates, updates_per_epoch=updates_per_epoch)
        self.gamma = schedule_config.gamma
        self.every = max(self.length("every"), 1)

    def factor(self, update: int) -> float:
        """Return `gamma` to the power of the completed drops."""
        return float(self.gamma ** (update // self.every))
