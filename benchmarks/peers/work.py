"""The work that every framework does: an MLP, AdamW with its fused kernel, batches that lie ready in memory.

The framework draws its batches from `Paired`. After each slice of updates the loop by hand does the same updates in the
same process, and both are timed: no framework has to be changed or observed for that. In the last slice but one Python
calls are counted instead. Seconds are those that the process has computed for, on any thread.
"""

from __future__ import annotations

import cProfile
import pstats
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import process_time
from typing import Any

import torch
from torch import Tensor, nn

SEED = 0


@dataclass(frozen=True)
class Size:
    """Widths of the layers, samples of a batch, updates of a slice, number of slices."""

    widths: tuple[int, ...]
    batch: int
    slice: int
    slices: int

    @property
    def updates(self) -> int:
        return self.slice * self.slices


SIZES = {"tiny": Size((8, 32, 1), 32, 50, 120), "middle": Size((512, 1024, 1024, 512), 256, 2, 24)}


def make_model(size: Size) -> nn.Sequential:
    """Return the model, the same each time."""
    torch.manual_seed(SEED)
    layers: list[nn.Module] = []
    for number in range(len(size.widths) - 1):
        layers += [nn.Linear(size.widths[number], size.widths[number + 1]), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer, the same for all sides."""
    return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2, fused=True)


def make_batches(size: Size) -> list[tuple[Tensor, Tensor]]:
    """Return the batches of one slice; each slice has the same ones."""
    generator = torch.Generator().manual_seed(SEED)
    shapes = ((size.batch, size.widths[0]), (size.batch, size.widths[-1]))
    return [tuple(torch.randn(shape, generator=generator) for shape in shapes) for _ in range(size.slice)]  # type: ignore[misc]


class Bare:
    """The loop by hand.

    Args:
        size: The size of the work.
    """

    def __init__(self, size: Size) -> None:
        self.model = make_model(size)
        self.optimizer = make_optimizer(self.model)

    def train(self, batches: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Do one update on each batch."""
        model, optimizer = self.model, self.optimizer
        for x, y in batches:
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()


class Paired:
    """The batches of a framework; as it asks for the next slice, the loop by hand does the last one.

    Args:
        size: The size of the work.
        as_dicts: Yield dicts with `x` and `y` instead of pairs.
    """

    def __init__(self, size: Size, *, as_dicts: bool = False) -> None:
        self.size, self.bare, self.batches = size, Bare(size), make_batches(size)
        self.shown: list[Any] = [{"x": x, "y": y} for x, y in self.batches] if as_dicts else list(self.batches)
        self.seconds: list[tuple[float, float]] = []
        self.calls = 0.0
        self.done = 0

    def __len__(self) -> int:
        return self.size.updates

    def __iter__(self) -> Iterator[Any]:
        profile = cProfile.Profile()
        for number in range(self.size.slices):
            counts = number == self.size.slices - 2
            if counts:
                profile.enable()
            started = process_time()
            yield from self.shown
            ended = process_time()
            if counts:
                profile.disable()
                self.calls = (calls_of(profile) - self._calls_by_hand()) / self.size.slice
            else:
                self._by_hand()
                self.seconds.append((ended - started, process_time() - ended))

    def _by_hand(self) -> None:
        with torch.enable_grad():
            self.bare.train(self.batches)
        self.done += 1

    def _calls_by_hand(self) -> int:
        profile = cProfile.Profile()
        profile.enable()
        self._by_hand()
        profile.disable()
        return calls_of(profile)

    def result(self, parameters: Sequence[Tensor]) -> dict[str, float]:
        """Return the figures, and compare the weights that the framework has ended with.

        Args:
            parameters: Of the model that it has trained.
        """
        while self.done < self.size.slices:
            self._by_hand()
        expected = list(self.bare.model.parameters())
        assert len(expected) == len(parameters)
        equal = all(torch.equal(one, other) for one, other in zip(expected, parameters, strict=True))
        for one, other in zip(expected, parameters, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
        return figures(self.seconds[1:], self.size.slice) | {"calls_above": self.calls, "equal": equal}


def figures(pairs: Sequence[tuple[float, float]], updates: int) -> dict[str, float]:
    """Return the medians of pairs of seconds, of the framework and of the loop by hand."""
    theirs, bare = (statistics.median(side) / updates * 1e6 for side in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for one, other in pairs)
    above = statistics.median(one - other for one, other in pairs) / updates * 1e6
    return {"us": theirs, "bare_us": bare, "us_above": above, "ratio": ratio}


def calls_of(profile: cProfile.Profile) -> int:
    """Return the calls that were counted, of Python functions and of built-in ones."""
    return pstats.Stats(profile).total_calls  # type: ignore[attr-defined,no-any-return]  # typeshed lacks it
