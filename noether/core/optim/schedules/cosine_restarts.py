"""`cosine-restarts`: half cosine waves, each longer than the last (torch's `CosineAnnealingWarmRestarts`)."""

import math

from pydantic import Field

from noether.core.optim.schedules.base import Schedule
from noether.core.schemas.schedules import ScheduleBaseConfig


class CosineRestartsConfig(ScheduleBaseConfig):
    """Settings of the `cosine-restarts` schedule."""

    end: float = Field(0.0, ge=0, description="Factor at the end of each wave.")
    first_updates: int | None = Field(None, ge=1, examples=[1000], description="Updates of the first wave.")
    first_epochs: float | None = Field(None, gt=0, examples=[5], description="The same in epochs.")
    first_percent: float | None = Field(
        None, gt=0, le=100, examples=[10], description="The same in percent of the run."
    )
    growth: int = Field(1, ge=1, description="How many times longer each wave is than the one before.")


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
