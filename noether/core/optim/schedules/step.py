"""`step`: multiply by `gamma` again and again (torch's `StepLR`)."""

from pydantic import Field

from noether.core.optim.schedules.base import Schedule
from noether.core.schemas.schedules import ScheduleBaseConfig


class StepConfig(ScheduleBaseConfig):
    """Settings of the `step` schedule."""

    gamma: float = Field(0.1, gt=0, description="Factor that each step multiplies by.")
    every_updates: int | None = Field(None, ge=1, examples=[1000], description="Updates from step to step.")
    every_epochs: float | None = Field(None, gt=0, examples=[10], description="The same in epochs.")
    every_percent: float | None = Field(
        None, gt=0, le=100, examples=[30], description="The same in percent of the run."
    )


class Step(Schedule):
    """Falls in equal steps on a logarithmic scale."""

    def __init__(self, schedule_config: StepConfig, *, total_updates: int, updates_per_epoch: int) -> None:
        super().__init__(schedule_config, total_updates=total_updates, updates_per_epoch=updates_per_epoch)
        self.gamma = schedule_config.gamma
        self.every = max(self.length("every"), 1)

    def factor(self, update: int) -> float:
        """Return `gamma ** (completed steps)`."""
        return float(self.gamma ** (update // self.every))
