"""Parts of runs of several ranks: models with and without draws, ragged data, callbacks that do odd things on one."""

import os
import signal
import time
from pathlib import Path

import torch
from pydantic import Field
from torch import nn

from noether.config.components import CallBackBaseConfig, PeriodicDataIteratorCallbackConfig
from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.periodic import PeriodicCallback, PeriodicDataIteratorCallback
from noether.data.dataset import Dataset
from noether.training.trainers import Counted


class Normed(nn.Module):
    """Two layers with a batch norm between them."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 2)
        )

    def forward(self, x):
        return self.layers(x)


class OneOfTwo(nn.Module):
    """Uses one of two layers: that of the sign of its first number in the batch, or of the rank."""

    def __init__(self, by_rank: bool = False):
        super().__init__()
        self.by_rank = by_rank
        self.positive, self.negative = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x):
        first = os.environ.get("RANK", "0") == "0" if self.by_rank else bool(x[0, 0] > 0)
        return (self.positive if first else self.negative)(x)


class Recording(Dataset):
    """Notes the indices of the samples that are asked for, in `order-<rank>.txt`."""

    def __init__(self, samples: int = 240):
        self.samples = samples

    def __len__(self):
        return self.samples

    def __getitem__(self, index):
        rank = os.environ.get("RANK", "0")
        with Path(f"order-{rank}.txt").open("a") as file:
            file.write(f"{index}\n")
        value = torch.full((3,), index / self.samples)
        return {"x": value, "y_target": value[:2].square()}


class Points(Dataset):
    """Clouds of one to nine points, which are padded."""

    def __len__(self):
        return 240

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(int(index))
        x = torch.randn(1 + int(index) * 7 % 9, 3, generator=generator)
        return {"x": x, "y_target": x[:, :2].sin()}


def large_ones(input, target):
    """Return the mean error of the samples with a large target, of which a batch may have none."""
    large = target[:, 0] > 0.9
    errors = (input - target).square().mean(dim=1)
    return Counted((errors * large).sum() / large.sum().clamp(min=1), large.sum())


class AtConfig(CallBackBaseConfig):
    update: int = Field(5, description="The update at which it happens.")
    ranks: list[int] = Field([0], description="The ranks on which it happens.")
    attempts: list[int] = Field([0], description="Starts of the launcher, from 0, in which it happens.")
    numbers: list[int] = Field([], description="Signals to send to itself.")


class At(CallbackBase):
    """Does something after an update on some ranks."""

    def __init__(self, callback_config: AtConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
        self.config = callback_config

    def track_after_update_step(self, *, update_counter):
        ranks = self.trainer.parallel
        config = self.config
        if update_counter.update == config.update and ranks.rank in config.ranks and ranks.attempt in config.attempts:
            self.act()


class Signals(At):
    """Sends itself signals."""

    def act(self):
        for number in self.config.numbers:
            os.kill(os.getpid(), number)


class Raises(At):
    """Raises an exception of its own."""

    def act(self):
        raise ValueError(f"out of paper on rank {self.trainer.parallel.rank}")


class Hangs(At):
    """Never comes back."""

    def act(self):
        time.sleep(600)


class Strays(At):
    """Changes the weights of its rank alone."""

    def act(self):
        with torch.no_grad():
            next(self.model.parameters()).add_(1.0)


class Poisons(At):
    """Makes the gradients of the next update of its rank not finite, by a weight."""

    def act(self):
        handle = next(self.model.parameters()).register_hook(lambda gradient: gradient * float("nan"))
        self.handle = handle


class Ordered(PeriodicDataIteratorCallback):
    """Logs a number that depends on the order of all results, and their number."""

    def process_data(self, batch, *, trainer_model):
        return {"x": batch["x"][:, 0], "y": trainer_model(x=batch["x"])["y"].sum(dim=1)}

    def process_results(self, results, **_):
        places = torch.arange(1.0, len(results["x"]) + 1)
        self.writer.add_scalar("ordered/x", (results["x"] * places).sum())
        self.writer.add_scalar("ordered/y", (results["y"] * places).sum())
        self.writer.add_scalar("ordered/samples", float(len(results["x"])))
