"""Callbacks that pause or interrupt a run at a chosen point."""

import os
import signal
import time
from pathlib import Path
from typing import Literal

from pydantic import Field

from noether.config.components import CallBackBaseConfig, PeriodicDataIteratorCallbackConfig
from noether.core.callbacks.periodic import PeriodicCallback, PeriodicDataIteratorCallback

HOLD, HELD = Path("hold-from.txt"), Path("held")
INTERRUPTED = Path("interrupted")


class Holds(PeriodicCallback):
    """Keeps the run waiting, from the update on that a file asks for, until that file is gone."""

    def periodic_callback(self, *, update_counter):
        if HOLD.exists() and update_counter.update >= int(HOLD.read_text()):
            HELD.touch()
            while HOLD.exists():
                time.sleep(0.001)


class InterruptsConfig(CallBackBaseConfig):
    where: Literal["accumulation", "evaluation"] = Field(description="Inside of what.")
    action: Literal["raise", "signal"] = Field(description="A failure, or SIGTERM.")
    at_update: int = Field(description="Completed updates at which it happens.")
    at_part: int = Field(description="The accumulation step, or the batch, at which it happens.")


class Interrupts(PeriodicDataIteratorCallback):
    """Interrupts an update between its accumulation steps, or an evaluation between its batches; once."""

    def __init__(self, callback_config: InterruptsConfig, **kwargs):
        data = {"id": callback_config.id, "every_n_updates": callback_config.every_n_updates, "dataset_key": "test"}
        super().__init__(PeriodicDataIteratorCallbackConfig(**data), **kwargs)
        self.component = callback_config._component
        self.config = callback_config
        self.batches = 0

    def maybe(self, where, part):
        at = (self.config.where, self.config.at_update, self.config.at_part)
        if (where, self.trainer.update_counter.update, part) == at and not INTERRUPTED.exists():
            INTERRUPTED.touch()
            if self.config.action == "raise":
                raise RuntimeError("the power is out")
            os.kill(os.getpid(), signal.SIGTERM)

    def track_after_accumulation_step(self, *, accumulation_step):
        self.maybe("accumulation", accumulation_step)

    def periodic_callback(self, **kwargs):
        self.batches = 0
        super().periodic_callback(**kwargs)

    def process_data(self, batch, *, trainer_model):
        self.maybe("evaluation", self.batches)
        self.batches += 1
        return trainer_model(x=batch["x"])["y"].mean(dim=1)

    def process_results(self, results, **_):
        self.writer.add_scalar("mean/test", results.mean())
