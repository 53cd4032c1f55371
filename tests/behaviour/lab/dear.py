"""Callbacks that cost something at every update."""

from noether.core.callbacks import CallBackBaseConfig
from noether.core.callbacks.base import CallbackBase


class AtEveryUpdateConfig(CallBackBaseConfig):
    needs_interval = False


class Busy(CallbackBase):
    """Adds up numbers after each update."""

    def __init__(self, callback_config: AtEveryUpdateConfig, **kwargs):
        super().__init__(**kwargs)

    def track_after_update_step(self, *, update_counter):
        sum(range(500_000))


class Reads(CallbackBase):
    """Reads three values of the device in each accumulation step, and makes one tensor."""

    def __init__(self, callback_config: AtEveryUpdateConfig, **kwargs):
        super().__init__(**kwargs)

    def track_after_accumulation_step(self, *, losses):
        losses["total"].item()
        float(losses["total"])
        (losses["total"] + 1).tolist()


class Meddles(CallbackBase):
    """Changes a weight after each update."""

    def __init__(self, callback_config: AtEveryUpdateConfig, **kwargs):
        super().__init__(**kwargs)

    def track_after_update_step(self, *, update_counter):
        next(self.model.parameters()).add_(0.5)
