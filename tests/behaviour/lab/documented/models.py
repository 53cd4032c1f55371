"""Models that the documentation's callbacks can be used with."""

import torch
from torch import nn

from noether.config.components import ModelBaseConfig
from noether.core.models.base import ModelBase


class Classifier(ModelBase):
    """Maps three numbers to the logits of four classes."""

    def __init__(self, model_config: ModelBaseConfig):
        super().__init__(model_config)
        self.embed = nn.Linear(3, 5)
        self.head = nn.Linear(5, 4)

    def get_embeddings(self, x):
        return torch.tanh(self.embed(x))

    def forward(self, x):
        return self.head(self.get_embeddings(x))


class PlainClassifier(nn.Module):
    """The same, knowing nothing of Noether."""

    def __init__(self, classes: int = 4):
        super().__init__()
        self.embed = nn.Linear(3, 5)
        self.head = nn.Linear(5, classes)

    def get_embeddings(self, x):
        return torch.tanh(self.embed(x))

    def forward(self, x):
        return self.head(self.get_embeddings(x))
