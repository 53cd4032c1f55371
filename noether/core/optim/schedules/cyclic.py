"""`cyclic`: a triangle wave between a floor and the base value (torch's `CyclicLR`)."""

from typing import Literal

from pydantic import Field

from noether.core.optim.schedules.base import Schedule
from noether.core.schemas.schedules import ScheduleBaseConfig


class CyclicConfig(ScheduleBaseConfig):
    """Settings of the `cyclic` schedule; the base value is the top of the wave."""

    floor: float = Field(0.1, ge=0, description="Factor at the foot of the wave.")
    up_updates: int | None = Field(None, ge=1, examples=[500], description="Updates from the foot to the top.")
    up_epochs: float | None = Field(None, gt=0, examples=[2], description="The same in epochs.")
    up_percent: float | None = Field(None, gt=0, le=100, examples=[5], description="The same in percent of the run.")
    mode: Literal["triangular", "triangular2"] = Field(
        "triangular", description="Whether the height stays, or halves with each wave."
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
