"""`constant`: one factor for a while, then the base value (torch's `ConstantLR`)."""

from pydantic import Field

from noether.core.optim.schedules.base import Schedule
from noether.core.schemas.schedules import ScheduleBaseConfig


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
