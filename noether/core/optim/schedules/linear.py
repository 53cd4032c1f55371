"""`linear`: a straight line between two factors (torch's `LinearLR`)."""

from pydantic import Field

from noether.core.optim.schedules.base import Schedule
from noether.core.schemas.schedules import ScheduleBaseConfig


class LinearConfig(ScheduleBaseConfig):
    """Settings of the `linear` schedule."""

    start: float = Field(1.0, ge=0, description="Factor at the first update.")
    end: float = Field(0.0, ge=0, description="Factor at the end of the line and from there on.")
    over_updates: int | None = Field(
        None, ge=1, examples=[5000], description="Updates that the line takes; unset: the whole run."
    )
    over_epochs: float | None = Field(None, gt=0, examples=[20], description="The same in epochs.")


class Linear(Schedule):
    """Moves from `start` to `end` by equal steps."""

    def __init__(self, schedule_config: LinearConfig, *, total_updates: int, updates_per_epoch: int) -> None:
        super().__init__(schedule_config, total_updates=total_updates, updates_per_epoch=updates_per_epoch)
        self.start = schedule_config.start
        self.end = schedule_config.end
        self.over = max(self.length("over", default=self.total_updates), 1)

    def factor(self, update: int) -> float:
        """Return `start + (end - start) * update / over`, constant after `over`."""
        return self.start + (self.end - self.start) * min(update, self.over) / self.over
