"""Schedule: what a schedule is asked, and how its lengths are given."""

from __future__ import annotations

from abc import ABC, abstractmethod

from noether.core.schemas.schedules import ScheduleBaseConfig
from noether.errors import SpecError


class Schedule(ABC):
    """A factor on a base value (learning rate, weight decay) as a pure function of the completed updates.

    Nothing is counted and nothing is stored, so a resumed run continues its schedule by construction.

    Args:
        schedule_config: The schedule's own settings.
        total_updates: Updates of the whole run.
        updates_per_epoch: Updates in one pass over the training set.
    """

    def __init__(self, schedule_config: ScheduleBaseConfig, *, total_updates: int, updates_per_epoch: int) -> None:
        self.schedule_config = schedule_config
        self.total_updates = max(total_updates, 1)
        self.updates_per_epoch = updates_per_epoch

    @abstractmethod
    def factor(self, update: int) -> float:
        """Return the factor in force for the update after `update` completed ones."""

    def length(self, name: str, *, default: int | None = None) -> int:
        """Return a length in updates from whichever of `<name>_updates`, `<name>_epochs`, `<name>_percent` is set.

        Raises:
            SpecError: Several of them are set, or none and there is no default.
        """
        units = {
            "updates": 1.0,
            "epochs": float(self.updates_per_epoch),
            "percent": self.total_updates / 100,
        }
        asked = {unit: getattr(self.schedule_config, f"{name}_{unit}", None) for unit in units}
        given: dict[str, float] = {unit: value for unit, value in asked.items() if value is not None}
        if len(given) > 1 or (not given and default is None):
            wanted = f"{name}_updates, {name}_epochs or {name}_percent"
            found = ", ".join(f"{name}_{unit} = {value}" for unit, value in given.items()) or "none"
            raise SpecError(
                f"the schedule '{self.schedule_config.kind}' needs one of {wanted}; found {found}",
                hint=f"keep one of {wanted} in its table",
            )
        if not given:
            assert default is not None
            return default
        ((unit, value),) = given.items()
        return round(value * units[unit])
