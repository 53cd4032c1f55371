"""Models of the project: one that knows nothing of Noether, and a composite."""

import torch
from pydantic import Field
from torch import nn

from noether.core.models.base import ModelBase
from noether.core.models.composite import CompositeModel
from noether.core.schemas.models import ModelBaseConfig


class Line(nn.Module):
    def __init__(self, slopes: int = 2, bias: bool = True):
        super().__init__()
        self.linear = nn.Linear(3, slopes, bias=bias)

    def forward(self, x):
        return {"y": self.linear(x)}


class HalfConfig(ModelBaseConfig):
    width: int = Field(4, description="Numbers between the halves.")


class Half(ModelBase):
    def __init__(self, model_config, sizes):
        super().__init__(model_config)
        self.linear = nn.Linear(*sizes)

    def forward(self, x):
        return self.linear(x)


class EncoderDecoder(CompositeModel):
    """Two halves, each with an optimizer of its own."""

    def __init__(self, model_config: HalfConfig):
        slow = model_config.model_copy()
        parts = {
            "encoder": Half(slow, (3, model_config.width)),
            "decoder": Half(slow, (model_config.width, 2)),
        }
        super().__init__(model_config, parts=parts)

    def forward(self, x):
        return {"y": self.decoder(torch.tanh(self.encoder(x)))}


class Renamed(torch.nn.Linear):
    """Returns its output under a name that no target has."""

    def forward(self, input):
        return {"z": super().forward(input)}


class Sideways(torch.nn.Linear):
    """Returns a dimension too many."""

    def forward(self, input):
        return {"y": super().forward(input).unsqueeze(1)}


class Pair(torch.nn.Linear):
    """Returns two things."""

    def forward(self, input):
        return super().forward(input), None


class Picky(torch.nn.Module):
    """Knows one activation."""

    def __init__(self, act: str = "tanh"):
        super().__init__()
        self.act = {"tanh": torch.tanh}[act]
