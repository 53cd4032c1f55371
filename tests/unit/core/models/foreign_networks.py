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
