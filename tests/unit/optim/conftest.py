"""A network with weights, biases and a norm, and its parameters by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn


@pytest.fixture
def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
