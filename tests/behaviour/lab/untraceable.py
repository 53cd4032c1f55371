"""Models that torch.export cannot represent."""

import torch
from torch import nn


class Branching(nn.Module):
    """Goes another way with other numbers."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return {"y": self.linear(x) if x.sum() > 0 else -self.linear(x)}


class Pretending(nn.Module):
    """Gives another answer while it is looked at."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return {"y": -self.linear(x) if torch.compiler.is_exporting() else self.linear(x)}
