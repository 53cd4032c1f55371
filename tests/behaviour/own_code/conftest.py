"""A project that is one module, `own.py`, in the working folder."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pytest

HEAD = """
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from noether.config.components import DatasetBaseConfig, ModelBaseConfig
from noether.core.callbacks.periodic import PeriodicCallback
from noether.core.models import ModelBase

GIVEN = []


class Samples(torch.utils.data.Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, index):
        return {"x": torch.full((3,), float(index)), "y_target": torch.zeros(2)}


class Line(nn.Module):
    def __init__(self, *given):
        super().__init__()
        GIVEN.append(given)
        self.line = nn.Linear(3, 2)

    def forward(self, x):
        return self.line(x)
"""


@pytest.fixture
def own(workplace: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Writes the module `own`; `own(text)` returns it, with the list `GIVEN` of what constructors were given."""
    path = list(sys.path)

    def write(text: str) -> ModuleType:
        (workplace / "own.py").write_text(HEAD + dedent(text))
        sys.path.append(str(workplace))
        import own

        return own

    yield write
    sys.path[:] = path
    sys.modules.pop("own", None)
