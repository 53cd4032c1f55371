"""Callbacks that pause or interrupt a run at a chosen point."""

import contextlib
import os
import shutil
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


class ReplacedConfig(CallBackBaseConfig):
    at_update: int = Field(description="Completed updates at which it happens.")
    what: Literal["run", "lock"] = Field(description="The whole folder, or the lock file.")


class Replaced(PeriodicCallback):
    """Moves the folder of the run away, or its lock file, and puts a copy in its place; once."""

    def __init__(self, callback_config: ReplacedConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
        self.config = callback_config

    def periodic_callback(self, *, update_counter):
        if update_counter.update == self.config.at_update:
            run, in_flight = self.trainer.path_provider.run_path, self.trainer.checkpoint_writer.queue.in_flight
            if in_flight is not None:
                in_flight.is_stored()  # else it may be copied half written
            path = run if self.config.what == "run" else run / "LOCK"
            moved = path.rename(run.with_name("moved"))
            (shutil.copytree if moved.is_dir() else shutil.copyfile)(moved, path)
            shutil.copytree(run, run.with_name("as-it-was"))


class Copies(PeriodicCallback):
    """Copies the folder of the run, which opens and closes each of its files."""

    def periodic_callback(self):
        run = self.trainer.path_provider.run_path
        copy = run.parent / f".copy-of-{run.name}"
        shutil.rmtree(copy, ignore_errors=True)
        with contextlib.suppress(shutil.Error, OSError):  # a save in the background removes files meanwhile
            shutil.copytree(run, copy, ignore=shutil.ignore_patterns(".tmp-*"))
