"""Classes and functions without any Noether code, with signatures of all sorts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from nowhere import Missing


class Side(Enum):
    LEFT = "left"


SENTINEL = object()


class Typed(nn.Module):
    def __init__(
        self,
        width: int,
        rates: Sequence[float] = (0.1, 1),
        mode: Literal["a", "b"] = "a",
        side: Side = Side.LEFT,
        scale: float | Tensor = 1,
        pair: tuple[float | Tensor, float | None] = (0.5, None),
        window: tuple[int | Tensor, ...] = (1, 2),
        path: Path | None = None,
        table: dict[str, list[int]] | None = None,
        loose: str = None,  # noqa: RUF013 -- as many write it
        activation: str | Callable[[Tensor], Tensor] = torch.relu,
        weight: Tensor | None = None,
        part: nn.Module | None = None,
        hook: Missing = None,
        by_index: dict[int, str] | None = None,
        number: complex = 0j,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        _private: int = 0,
    ):
        super().__init__()


class Untyped(nn.Module):
    def __init__(self, width, depth=2, rate=0.5, name="x", flag=False, extra=None, marker=SENTINEL):
        super().__init__()
        self.given = (width, depth, rate, name, flag, extra, marker)


class Child(Untyped):
    def __init__(self, *, alpha: float = 1.0, depth: int = 7, **kwargs: Any):
        super().__init__(**kwargs)


class Positional(Untyped):
    def __init__(self, alpha: float, *args: Any):
        super().__init__(*args)


class Clashing(nn.Module):
    def __init__(self, frozen: bool = False):
        super().__init__()


class HarmlesslyNamed(nn.Module):
    def __init__(self, frozen: Tensor | None = None, width: int = 1):
        super().__init__()


def distance(input: Tensor, target: Tensor, weight: Tensor | None = None, power: float = 2.0) -> Tensor:
    return (input - target) ** power
