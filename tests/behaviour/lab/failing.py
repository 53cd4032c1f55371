"""A callback that fails once, so that the same spec goes on when it is run again."""

from pathlib import Path

from pydantic import Field

from noether.config.components import CallBackBaseConfig
from noether.core.callbacks.periodic import PeriodicCallback

FAILED = Path("failed-once")


class FailsOnceConfig(CallBackBaseConfig):
    at_update: int = Field(description="Completed updates at which it fails.")


class FailsOnce(PeriodicCallback):
    """Raises at an update, unless it has done so before."""

    def __init__(self, callback_config: FailsOnceConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
        self.at_update = callback_config.at_update

    def periodic_callback(self, *, update_counter):
        if update_counter.update == self.at_update and not FAILED.exists():
            FAILED.touch()
            raise RuntimeError("the power is out")


class Forgetful(PeriodicCallback):
    """Returns a state that it does not take back."""

    def __init__(self, callback_config: CallBackBaseConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
        self.updates = 0

    def periodic_callback(self):
        self.updates += 1

    def state_dict(self):
        return {"updates": self.updates}


class Unsavable(PeriodicCallback):
    """Has a state that no checkpoint can hold."""

    def state_dict(self):
        return {"seen": {"files": [open]}}


class Fails(PeriodicCallback):
    """Raises."""

    def periodic_callback(self):
        raise RuntimeError("the power is out again")


class FailsAtTheEnd(PeriodicCallback):
    """Raises after training, unless it has done so before."""

    def after_training(self):
        if not FAILED.exists():
            FAILED.touch()
            raise RuntimeError("the power is out at the end")
