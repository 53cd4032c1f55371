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
            f"{name}_updates": 1.0,
            f"{name}_epochs": float(self.updates_per_epoch),
            f"{name}_percent": self.total_updates / 100,
        }
        fields = [field for field in units if field in type(self.schedule_config).model_fields]
        asked = {field: getattr(self.schedule_config, field) for field in fields}
        given: dict[str, float] = {field: value for field, value in asked.items() if value is not None}
        if len(given) > 1 or (not given and default is None):
            wanted = f"{', '.join(fields[:-1])} or {fields[-1]}"
            found = " and ".join(f"{field} = {value}" for field, value in given.items()) or "none"
            raise SpecError(
                f"the schedule '{self.schedule_config.kind}' needs one of {wanted}; found {found}",
                hint=f"keep one of {wanted} in its table",
            )
        if not given:
            assert default is not None
            return default
        ((unit, value),) = given.items()
        return round(value * units[unit])
