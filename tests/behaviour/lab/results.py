"""A callback that adds results of every kind in every hook, one that kills its process, and a tracker of results."""

import os
import random
import signal
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure

from noether.config.components import TrackerBaseConfig
from noether.core.callbacks import PeriodicCallback
from noether.core.trackers import BaseTracker


class Draws(PeriodicCallback):
    """Adds results at its interval, after each accumulation step, and around training."""

    def before_training(self, *, update_counter):
        self.writer.add_table("around", {"update": [update_counter.update]})

    def track_after_accumulation_step(self, *, update_counter, accumulation_step, losses):
        self.writer.add_table("step", {"accumulation_step": [accumulation_step], "loss": losses["total"].reshape(1)})

    def periodic_callback(self, *, update_counter, **_):
        weights = torch.cat([parameter.flatten() for parameter in self.model.parameters()])
        figure = Figure(figsize=(1, 1), dpi=40)
        figure.add_subplot().plot(weights.detach().numpy())
        self.writer.add_figure("weights/curve", figure)
        self.writer.add_figure("noise", torch.rand(4, 4))
        self.writer.add_histogram("weights/histogram", weights, bins=8)
        Path("given.txt").write_text(f"update {update_counter.update}, {random.random()}")
        self.writer.add_file("given", "given.txt")

    def after_training(self, *, update_counter):
        self.writer.add_table("around", {"update": [update_counter.update]})


class Wrong(PeriodicCallback):
    """Adds what is no figure."""

    def periodic_callback(self, **_):
        self.writer.add_figure("wrong/picture", [1, 2])


class Dies(PeriodicCallback):
    """Kills its process, once, where a file says so."""

    def periodic_callback(self, *, update_counter, **_):
        if Path("die-at").exists() and update_counter.update == int(Path("die-at").read_text()):
            Path("die-at").unlink()
            os.kill(os.getpid(), signal.SIGKILL)


class Keeps(BaseTracker):
    """Writes each result that it gets to a file of its own, and a line of its name."""

    def __init__(self, tracker_config: TrackerBaseConfig):
        super().__init__(tracker_config)

    def open(self, run):
        self.folder = Path("tracked") / run.run_id
        self.folder.mkdir(parents=True, exist_ok=True)

    def log_metrics(self, records):
        pass

    def log_result(self, result, path):
        with (self.folder / "got.txt").open("a") as got:
            got.write(f"{result.update} {result.key} {result.kind} {result.sha256}\n")

    def close(self, status, error):
        pass

    @property
    def reference(self):
        return {"run": "kept"}


class Clocked(PeriodicCallback):
    """Adds a table that no resumed run repeats."""

    def periodic_callback(self, **_):
        self.writer.add_table("clock", {"pid": [os.getpid()], "seconds": [time.perf_counter()]})
