"""`cosine`: half a cosine wave from 1 down to `end` (torch's `CosineAnnealingLR`)."""

import math

from pydantic import Field

from noether.core.optim.schedules.base import Schedule
from noether.core.schemas.schedules import ScheduleBaseConfig


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
