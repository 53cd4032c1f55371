"""Networks without any Noether code, found by dotted path."""

from torch import Tensor, nn


class Shifted(nn.Module):
    def __init__(self, width: int = 2, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(3, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Refuses(nn.Module):
    def __init__(self, width: int = 0) -> None:
        super().__init__()
        raise ValueError("width must be positive")


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.norm = nn.Linear(3, 3), nn.LayerNorm(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.wide(x))


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Layer(), Layer()])
        self.again, self.act, self.head = self.blocks[1], nn.GELU(), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in (*self.blocks, self.again):
            x = self.act(block(x))
        return self.head(x)
