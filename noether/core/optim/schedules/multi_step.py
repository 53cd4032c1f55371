"""`multi-step`: multiply by `gamma` at given updates (torch's `MultiStepLR`)."""

from bisect import bisect_right

from pydantic import Field

from noether.core.optim.schedules.base import Schedule
from noether.core.schemas.schedules import ScheduleBaseConfig


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
