"""Models of the project: one without any Noether code, and composites."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from noether.config.components import ModelBaseConfig
from noether.config.discriminated import Discriminated
from noether.core.models.base import ModelBase
from noether.core.models.composite import CompositeModel


class Line(nn.Module):
    def __init__(self, slopes: int = 2, bias: bool = True):
        super().__init__()
        self.linear = nn.Linear(3, slopes, bias=bias)

    def forward(self, x):
        return {"y": self.linear(x)}


class Bare(Line):
    """Returns one tensor."""

    def forward(self, x):
        return self.linear(x)


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
        parts = {
            "encoder": Half(model_config, (3, model_config.width)),
            "decoder": Half(model_config, (model_config.width, 2)),
        }
        super().__init__(model_config, parts=parts)

    def forward(self, x):
        return {"y": self.decoder(torch.tanh(self.encoder(x)))}


class AutoEncoderConfig(ModelBaseConfig):
    encoder: Annotated[Any, Discriminated("model")] = Field(description="From x to code.")
    decoder: Annotated[Any, Discriminated("model")] = Field(description="From code to y.")


class AutoEncoder(CompositeModel):
    """Parts that the spec chooses, each with a table of its own."""

    def __init__(self, model_config: AutoEncoderConfig):
        super().__init__(model_config, parts={"encoder": model_config.encoder, "decoder": model_config.decoder})

    def forward(self, x):
        return self.decoder(code=self.encoder(x=x)["code"])


class PartConfig(ModelBaseConfig):
    width: int = Field(4, description="Numbers that it returns.")


class FixedPartsConfig(ModelBaseConfig):
    encoder: PartConfig = Field(PartConfig(), description="The first half.")
    decoder: PartConfig = Field(PartConfig(width=2), description="The second half.")


class FixedParts(CompositeModel):
    """Parts of fixed classes, with a table for each."""

    def __init__(self, model_config: FixedPartsConfig):
        encoder, decoder = model_config.encoder, model_config.decoder
        parts = {"encoder": Half(encoder, (3, encoder.width)), "decoder": Half(decoder, (encoder.width, decoder.width))}
        super().__init__(model_config, parts=parts)

    def forward(self, x):
        return {"y": self.decoder(torch.tanh(self.encoder(x)))}


class Loose(FixedParts):
    """Has a weight that belongs to no part."""

    def __init__(self, model_config: FixedPartsConfig):
        super().__init__(model_config)
        self.scale = nn.Parameter(torch.ones(()))


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


class Tower(nn.Module):
    """Blocks that are alike, a layer of two names, and one that nothing calls."""

    def __init__(self, broken: bool = False):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))
        self.last = nn.Linear(7 if broken else 3, 2)
        self.again = self.last
        self.unused = nn.Linear(1, 1)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return {"y": self.last(x)}
