"""`linear-warmup-cosine-decay`: a linear rise, then half a cosine down."""

import math

from pydantic import Field

from noether.core.optim.schedules.base import Schedule
from noether.core.schemas.schedules import ScheduleBaseConfig


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
