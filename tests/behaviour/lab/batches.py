"""Clouds of points, and collators that return batches of several types."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from noether.data.collators import stack


class Clouds(torch.utils.data.Dataset):
    """Points whose number depends on the index, unless it is fixed."""

    def __init__(self, samples: int = 12, points: int | None = None):
        self.samples = samples
        self.points = points

    def __len__(self):
        return self.samples

    def __getitem__(self, index):
        x = torch.linspace(index / 10, 1, self.points or 1 + index % 5).unsqueeze(1).expand(-1, 3)
        return {"x": x.clone(), "y_target": x[:, :2] * 2, "name": f"cloud {index}"}


class Pointwise(nn.Module):
    """Maps each point for itself; 0 for points that a mask leaves out."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x, mask=None, batch_index=None):
        assert batch_index is None or len(batch_index) == len(x)
        return self.layer(x) if mask is None else self.layer(x) * mask.unsqueeze(-1)


@dataclass(frozen=True)
class Fields:
    """A batch with attributes."""

    x: Tensor
    y_target: Tensor
    name: list[str] | None = None


class Tuple(NamedTuple):
    """A batch that is a tuple."""

    x: Tensor
    y_target: Tensor
    name: list[str] | None = None


class Movable:
    """A batch like those of graph packages: it moves itself, names its parts, and is no mapping."""

    def __init__(self, properties):
        self.properties = properties
        self.moves = 0

    def keys(self):
        return list(self.properties)

    def __getattr__(self, name):
        if name == "properties" or name not in self.properties:
            raise AttributeError(name)
        return self.properties[name]

    def to(self, device):
        self.moves += 1
        return self


def fields(samples):
    return Fields(**stack(samples))


def tuples(samples):
    return Tuple(**stack(samples))


def movables(samples):
    return Movable(stack(samples))


def doubled(samples, factor: float = 2.0):
    batch = stack(samples)
    return {**batch, "x": batch["x"] * factor}
