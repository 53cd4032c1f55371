"""The modules of a sharded model that are gathered by themselves."""

import pytest
from torch import nn

from noether.core.models.build import AdaptedModule
from noether.training.parallel import sharded


class Blocks(nn.Module):
    def __init__(self, width=4, tied=False):
        super().__init__()
        self.first = nn.Linear(width, width)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(2)])
        self.head = nn.Linear(width, 2)
        if tied:
            self.first.weight = self.blocks[0][0].weight

    def forward(self, x):
        for block in (self.first, *self.blocks, self.head):
            x = block(x)
        return x


def names(units):
    return [name for name, _ in units]


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["blocks.*"], ["blocks.0", "blocks.1"]),
        (["blocks.*.0"], ["blocks.0.0", "blocks.1.0"]),
        (["head", "first"], ["first", "head"]),
        (["*"], ["first", "blocks.0", "blocks.1", "head"]),
    ],
)
def test_patterns_name_the_outermost_modules_that_are_called(patterns, found):
    assert names(sharded._named_units(AdaptedModule(Blocks()), patterns)) == found


@pytest.mark.parametrize(
    ("size", "found"),
    [(20, ["first", "blocks.0.0", "blocks.1.0"]), (10, ["first", "blocks.0.0", "blocks.1.0", "head"]), (21, [])],
)
def test_large_modules_are_units_by_default(monkeypatch, size, found):
    monkeypatch.setattr(sharded, "LARGE", size)
    assert names(sharded._large_units(Blocks())) == found


def test_a_module_that_shares_a_parameter_is_no_unit_by_default(monkeypatch):
    monkeypatch.setattr(sharded, "LARGE", 20)
    assert names(sharded._large_units(Blocks(tied=True))) == ["blocks.1.0"]
