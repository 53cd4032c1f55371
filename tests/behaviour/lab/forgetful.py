"""Callbacks that do not restore their state."""

import os
import time

import torch

from noether.config.components import CallBackBaseConfig
from noether.core.callbacks.periodic import PeriodicCallback


class Forgetful(PeriodicCallback):
    """Counts, and has no `state_dict` that would keep the count."""

    def __init__(self, callback_config: CallBackBaseConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
        self.seen = 0

    def periodic_callback(self):
        self.seen += 1
        self.writer.below("own/").add_scalar("seen", self.seen)


class Overdoes(PeriodicCallback):
    """Changes the weights by a number that it forgets."""

    def __init__(self, callback_config: CallBackBaseConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
        self.strength = 0.0

    def periodic_callback(self):
        self.strength += 0.25
        with torch.no_grad():
            next(self.model.parameters()).add_(self.strength)


class Impatient(PeriodicCallback):
    """Stops the run when it has seen enough in one attempt."""

    def __init__(self, callback_config: CallBackBaseConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
        self.seen = 0

    def periodic_callback(self):
        self.seen += 1
        if self.seen == 4:
            self.trainer.request_stop("seen enough")


class Moody(PeriodicCallback):
    """Changes the weights by numbers that cannot be repeated."""

    def periodic_callback(self):
        with torch.no_grad():
            next(self.model.parameters()).mul_(1 + os.urandom(1)[0] / 1000 + time.monotonic() % 1 / 1000)


class Clock(PeriodicCallback):
    """Logs a number that differs in each run."""

    def periodic_callback(self):
        self.writer.add_scalar("clock", time.monotonic())


class FailsToReturn(PeriodicCallback):
    """Cannot take back the state that it has saved."""

    def state_dict(self):
        return {"answer": 42}

    def load_state_dict(self, state_dict):
        raise KeyError("question")

    def periodic_callback(self):
        pass
