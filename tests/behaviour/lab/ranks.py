"""Parts of runs of several ranks: models with and without draws, ragged data, callbacks that do odd things on one."""

import os
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import nn

from noether.config.components import CallBackBaseConfig
from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.periodic import PeriodicDataIteratorCallback
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


class PerPoint(nn.Module):
    """Two layers for each point of a cloud, without statistics of a batch."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))

    def forward(self, x):
        return self.layers(x)


class OnOneRank(nn.Module):
    """Uses one of two layers on rank 0, and the other one on the others."""

    def __init__(self):
        super().__init__()
        self.first, self.others = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x):
        return (self.first if os.environ["RANK"] == "0" else self.others)(x)


class Seldom(nn.Module):
    """Has a layer for samples with a large first number, which half of the batches lack."""

    def __init__(self):
        super().__init__()
        self.usual, self.large = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x):
        large = x[:, :1] > 2.0
        return torch.where(large, self.large(x), self.usual(x)) if large.any() else self.usual(x)


class Numbers(Dataset):
    """240 samples that hold their index."""

    def __len__(self):
        return 240

    def __getitem__(self, index):
        value = torch.full((3,), index / 240)
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


class Notes(CallbackBase):
    """Notes the indices of the samples of each update, in the order in which they are trained, for each rank."""

    def track_after_accumulation_step(self, *, update_counter, batch):
        indices = [round(240 * value) for value in batch["x"][:, 0].tolist()]
        with Path(f"order-{self.trainer.parallel.rank}.txt").open("a") as file:
            file.write(f"{update_counter.update} {' '.join(map(str, indices))}\n")


class AtConfig(CallBackBaseConfig):
    update: int = Field(5, description="The update at which it happens.")
    ranks: list[int] = Field([0], description="The ranks on which it happens.")
    attempts: list[int] = Field([0], description="Starts of the launcher, from 0, in which it happens.")
    numbers: list[int] = Field([], description="Signals to send to itself.")


class At(CallbackBase):
    """Does something after an update on some ranks."""

    def __init__(self, callback_config: AtConfig, **kwargs):
        super().__init__(**kwargs)
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


class Remembers(At):
    """Keeps in its state what only some ranks have seen."""

    seen = 0

    def act(self):
        self.seen = 1

    def state_dict(self):
        return {"seen": torch.tensor(self.seen)}

    def load_state_dict(self, state_dict):
        self.seen = int(state_dict["seen"])


class Strays(At):
    """Changes the weights of its rank alone."""

    def act(self):
        with torch.no_grad():
            next(self.model.parameters()).add_(1.0)


class Copies(At):
    """Copies the model before training, as a callback that keeps a teacher does, and looks at the copy."""

    def act(self):
        pass

    def before_training(self):
        copied = deepcopy(self.model)
        norms = [module for module in copied.modules() if hasattr(module, "ranks")]
        assert norms
        assert all(norm.ranks is self.trainer.parallel for norm in norms)
        assert copied.state_dict().keys() == self.model.state_dict().keys()


POISON = []
"""Holds something if the next loss of this process shall not be finite."""


class Poisons(At):
    """Makes the next loss of its rank NaN, with `poisoned` as the loss."""

    def act(self):
        POISON.append(1)


def poisoned(input, target):
    loss = (input - target).square().mean()
    return loss * float("nan") if POISON and POISON.pop() else loss


def steep(input, target):
    """Return a finite loss with a gradient that is NaN in the first output, where `poisoned` is NaN."""
    loss = (input - target).square().mean()
    return loss + (0.0 * input[:, 0]).abs().sum().sqrt() if POISON and POISON.pop() else loss


class Ordered(PeriodicDataIteratorCallback):
    """Logs a number that depends on the order of all results, and their number."""

    def process_data(self, batch, *, trainer_model):
        return {"x": batch["x"][:, 0], "y": trainer_model(x=batch["x"]).sum(dim=1)}

    def process_results(self, results, **_):
        places = torch.arange(1.0, len(results["x"]) + 1)
        self.writer.add_scalar("ordered/x", (results["x"] * places).sum())
        self.writer.add_scalar("ordered/y", (results["y"] * places).sum())
        self.writer.add_scalar("ordered/samples", float(len(results["x"])))


class Born(nn.Module):
    """Notes the device on which each rank constructs it; with `needs_values`, it looks at its weights then."""

    def __init__(self, needs_values: bool = False):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
        self.register_buffer("scale", torch.full((2,), 0.5), persistent=False)
        if needs_values:
            assert float(self.layers[0].weight.abs().sum()) > 0.0
        with Path(f"born-{os.environ['RANK']}.txt").open("a") as file:
            file.write(f"{self.layers[0].weight.device.type}\n")

    def forward(self, x):
        return self.layers(x) * self.scale


class Fragile(nn.Module):
    """Raises in its second update on rank 1, where the others gather parameters in the meantime."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.passes = 0

    def forward(self, x):
        self.passes += self.training
        if self.passes == 2 and os.environ["RANK"] == "1":
            raise ValueError("out of paper in the forward pass of rank 1")
        return self.second(self.first(x))


class Constructed(nn.Module):
    """Scales its output by numbers that its constructor makes in a way that needs values, or is easily got wrong."""

    def __init__(self, way: str):
        super().__init__()
        self.layers = nn.Linear(3, 2)
        getattr(self, way)()

    def forward(self, x):
        return self.layers(x) * torch.as_tensor(self.scale).float()

    def beside_buffers(self):
        self.scale = torch.linspace(0.5, 1.0, 2)

    def in_a_buffer_of_two_layers(self):
        self.register_buffer("scale", torch.ones(2))
        self.layers.register_buffer("scale", self.scale)

    def drawn_on_the_cpu(self):
        self.scale = torch.rand(2, device="cpu").tolist()

    def drawn_before_values_are_needed(self):
        self.scale = np.random.rand(2)
        assert float(self.layers.weight.detach().abs().sum()) > 0.0

    def with_a_way_out(self):
        try:
            self.scale = float(self.layers.weight.detach().abs().sum())
        except RuntimeError:
            self.scale = 1.0

    def for_meta(self):
        self.scale = 1.0 if self.layers.weight.is_meta else 2.0


class Draws(At):
    """Draws a number when it is built, which every rank should draw, and logs those of all ranks."""

    def __init__(self, callback_config: AtConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
        self.drawn = torch.rand(1).item()

    def act(self):
        assert len(set(self.trainer.parallel.gather(self.drawn))) == 1


class Held(nn.Module):
    """Computes with parameters that it holds in a list beside its layer."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Linear(3, 2)
        self.held = [*self.layers.parameters()]

    def forward(self, x):
        return nn.functional.linear(x, *self.held)


class OfTwoTypes(nn.Module):
    """Layers of several types of numbers."""

    def __init__(self):
        super().__init__()
        self.first, self.layers = nn.Linear(3, 4, dtype=torch.float64), nn.Linear(4, 2)

    def forward(self, x):
        return self.layers(self.first(x.double()).float())


class WithoutElements(nn.Module):
    """A parameter without elements."""

    def __init__(self):
        super().__init__()
        self.layers, self.nothing = nn.Linear(3, 2), nn.Parameter(torch.zeros(0, 4))

    def forward(self, x):
        return self.layers(x) + self.nothing.sum()


class AsWideAsItsRank(nn.Module):
    """Layers of another size on each rank."""

    def __init__(self):
        super().__init__()
        width = 4 + int(os.environ["RANK"])
        self.layers = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2))

    def forward(self, x):
        return self.layers(x)


class Complex(nn.Module):
    """Complex weights."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Linear(3, 2, dtype=torch.complex64)

    def forward(self, x):
        return self.layers(x.to(torch.complex64)).real


class Closes(At):
    """Raises an exception when it is closed."""

    def act(self):
        pass

    def close(self):
        if self.trainer.parallel.rank in self.config.ranks:
            raise ValueError(f"out of paper at the end of rank {self.trainer.parallel.rank}")
