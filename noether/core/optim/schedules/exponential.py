"""`exponential`: the same factor every update or every epoch (torch's `ExponentialLR`)."""

from typing import Literal

from pydantic import Field

from noether.core.optim.schedules.base import Schedule
from noether.core.schemas.schedules import ScheduleBaseConfig


class ExponentialConfig(ScheduleBaseConfig):
    """Settings of the `exponential` schedule."""

    gamma: float = Field(gt=0, examples=[0.999], description="Factor for one `unit`.")
    unit: Literal["update", "epoch"] = Field("update", description="What `gamma` is the factor of.")


class Exponential(Schedule):
    """Decays as `gamma ** progress`; with `unit = "epoch"` it moves at epoch boundaries only."""

    def __init__(self, schedule_config: ExponentialConfig, *, total_updates: int, updates_per_epoch: int) -> None:
        super().__init__(schedule_config, total_updates=total_updates, updates_per_epoch=updates_per_epoch)
        self.gamma = schedule_config.gamma
        self.every = 1 if schedule_config.unit == "update" else updates_per_epoch

    def factor(self, update: int) -> float:
        """Return `gamma` to the power of the completed units."""
        return float(self.gamma ** (update // self.every))
