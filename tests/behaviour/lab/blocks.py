"""A model of blocks, as projects have them: plain torch modules, with dropout and batch norm."""

from typing import Annotated, Any

import torch
from torch import nn

from noether.config.components import ModelBaseConfig
from noether.config.discriminated import Discriminated
from noether.core.models.build import infer_sizes
from noether.core.models.composite import CompositeModel


class Block(nn.Module):
    """A residual block that takes keywords and returns a dict."""

    def __init__(self, width, dropout):
        super().__init__()
        self.wide = nn.Sequential(nn.Linear(width, 4 * width), nn.BatchNorm1d(4 * width), nn.GELU())
        self.back = nn.Sequential(nn.Dropout(dropout), nn.Linear(4 * width, width))

    def forward(self, hidden, *, scale):
        return {"hidden": hidden + scale * self.back(self.wide(hidden)), "nothing": None}


class Blocks(nn.Module):
    """A stem, blocks that share the last one, and a head."""

    def __init__(self, depth: int = 2, width: int = 4, dropout: float = 0.2, inplace: bool = False):
        super().__init__()
        self.stem = nn.Linear(3, width)
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(depth))
        self.again = self.blocks[-1]
        self.act = nn.ReLU(inplace=inplace)
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        hidden = self.stem(x)
        for block in (*self.blocks, self.again):
            hidden = block(hidden, scale=0.5)["hidden"]
        return {"y": self.head(self.act(hidden))}


class CoderConfig(ModelBaseConfig):
    """Config of a coder."""

    encoder: Annotated[Any, Discriminated("model")]
    decoder: Annotated[Any, Discriminated("model")]


class Coder(CompositeModel):
    """A torch module and a model of ours, one after the other."""

    def __init__(self, model_config: CoderConfig):
        super().__init__(model_config, parts={"encoder": model_config.encoder, "decoder": model_config.decoder})

    @classmethod
    def infer_sizes(cls, model_config, inputs, targets):
        decoder = infer_sizes(model_config.decoder, {"y": torch.zeros(2)}, targets)
        return model_config.model_copy(update={"decoder": decoder})

    def forward(self, x):
        return self.decoder(y=self.encoder(x=x)["y"])
