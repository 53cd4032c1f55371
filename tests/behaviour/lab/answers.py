"""Models that return their output in other forms than a dict by field."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import nn


@dataclass
class Output:
    logits: torch.Tensor
    hidden: tuple = ()
    loss: torch.Tensor | None = None


class ModelOutput(OrderedDict):
    """As in transformers: a mapping, a dataclass and a tuple at once."""

    def __getitem__(self, key):
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


FORMS = {
    "tensor": lambda y: y,
    "dict": lambda y: {"y": y},
    "mapping": lambda y: OrderedDict(y=y),
    "model-output": lambda y: ModelOutput(logits=y, hidden=(y - 1, y)),
    "dataclass": lambda y: Output(y, (y - 1, y)),
    "namedtuple": lambda y: namedtuple("Answer", "y extra")(y, None),
    "tuple": lambda y: (None, y),
    "list": lambda y: [y],
    "nested": lambda y: ([y - 1], {"a.b": y, "deep": SimpleNamespace(y=y)}),
    "object": lambda y: SimpleNamespace(logits=y),
}


class Answers(nn.Module):
    def __init__(self, form: str = "dict"):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.form = form

    def forward(self, x):
        return FORMS[self.form](self.linear(x))
