"""`one-cycle`: up to the base value and far down again (torch's `OneCycleLR` with two phases)."""

import math
from typing import Literal

from pydantic import Field

from noether.core.optim.schedules.base import Schedule
from noether.core.schemas.schedules import ScheduleBaseConfig


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
