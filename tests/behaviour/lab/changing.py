"""A callback that changes the model while it trains: it widens the dropout."""

from typing import Literal

from pydantic import Field

from noether.config.components import CallBackBaseConfig
from noether.core.callbacks.periodic import PeriodicCallback


class ChangesDropoutConfig(CallBackBaseConfig):
    hook: Literal["periodic_callback", "track_after_update_step", "track_after_accumulation_step"] = Field(
        description="Hook in which it does so."
    )
    at_update: int = Field(description="Completed updates from which on it does so.")


class ChangesDropout(PeriodicCallback):
    """Sets the share of dropped units to a half."""

    calls_model = False

    def __init__(self, callback_config: ChangesDropoutConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
        self.at_update = callback_config.at_update
        setattr(self, callback_config.hook, self._change)

    def _change(self, *, update_counter, **_):
        if update_counter.update == self.at_update:
            for module in self.model.modules():
                if hasattr(module, "p"):
                    module.p = 0.5
