"""`polynomial`: decay to zero by a power of what is left (torch's `PolynomialLR`)."""

from pydantic import Field

from noether.core.optim.schedules.base import Schedule
from noether.core.schemas.schedules import ScheduleBaseConfig


class PolynomialConfig(ScheduleBaseConfig):
    """Settings of the `polynomial` schedule."""

    power: float = Field(1.0, gt=0, description="Exponent of the decay; 1 is a straight line.")
    over_updates: int | None = Field(
        None, ge=1, examples=[5000], description="Updates of the decay; unset: the whole run."
    )
    over_epochs: float | None = Field(None, gt=0, examples=[20], description="The same in epochs.")


class Polynomial(Schedule):
    """Decays as `(1 - update / over) ** power`."""

    def __init__(self, schedule_config: PolynomialConfig, *, total_updates: int, updates_per_epoch: int) -> None:
        super().__init__(schedule_config, total_updates=total_updates, updates_per_epoch=updates_per_epoch)
        self.power = schedule_config.power
        self.over = max(self.length("over", default=self.total_updates), 1)

    def factor(self, update: int) -> float:
        """Return the power of the fraction that is left, zero after `over`."""
        return float((1 - min(update, self.over) / self.over) ** self.power)
