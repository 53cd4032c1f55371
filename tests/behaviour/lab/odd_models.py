"""Models with tensors that few models have; each maps `x` to `y`."""

import torch
from torch import nn
from torch.nn import functional


class Half(nn.Module):
    """Weights in half precision."""

    def __init__(self, numbers: str = "bfloat16"):
        super().__init__()
        self.lin = nn.Linear(3, 2).to(getattr(torch, numbers))

    def forward(self, x):
        return {"y": self.lin(x.to(self.lin.weight.dtype)).float()}


class Tokens(nn.Module):
    """An embedding with sparse gradients, by module or by function."""

    def __init__(self, by_function: bool = False):
        super().__init__()
        self.emb = nn.Embedding(8, 2, sparse=not by_function)
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x):
        rows = x.abs().mul(3).long().clamp(max=7)
        if self.emb.sparse:
            return {"y": self.emb(rows).mean(1) * self.scale}
        return {"y": functional.embedding(rows, self.emb.weight, sparse=True).mean(1) * self.scale}


class Columns(nn.Module):
    """Two parameters that are halves of one tensor; the second is frozen."""

    def __init__(self):
        super().__init__()
        a, b = torch.randn(3, 4, generator=torch.Generator().manual_seed(3)).chunk(2, dim=1)
        self.a = nn.Parameter(a)
        self.b = nn.Parameter(b, requires_grad=False)

    def forward(self, x):
        return {"y": x @ self.a + torch.tanh(x @ self.b)}


class Indexed(nn.Module):
    """Parameters of integers and of booleans."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 2)
        self.index = nn.Parameter(torch.tensor([2, 0, 1]), requires_grad=False)
        self.chosen = nn.Parameter(torch.tensor([True, False]), requires_grad=False)

    def forward(self, x):
        return {"y": self.lin(x[:, self.index]) * self.chosen}


class Remembering(nn.Module):
    """Remembers the mean of each batch, and the first one, in buffers that begin empty and as None."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 2)
        self.register_buffer("seen", torch.zeros(0, 3))
        self.register_buffer("first", None)

    def forward(self, x):
        if self.training:
            self.seen = torch.cat([self.seen, x.mean(0, keepdim=True)])
            self.first = self.seen[0].clone() if self.first is None else self.first
        return {"y": self.lin(x - self.seen.mean(0))}


class Late(nn.Module):
    """Registers a buffer in its first forward pass."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 2)

    def forward(self, x):
        if "mean" not in self._buffers:
            self.register_buffer("mean", x.mean(0))
        return {"y": self.lin(x - self.mean)}
