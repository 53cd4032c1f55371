"""The generators of the process, out and in again."""

from __future__ import annotations

import json
import random

import numpy as np
import torch

from noether.data.randomness import preserved_rng
from noether.training.loop.capture import capture_rng, restore_rng


def draws() -> tuple[float, ...]:
    return (
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),  # numpy and Python make two normal numbers at a time and keep one
        float(torch.rand(())),
        float(torch.randn(())),
    )


def test_generators_go_on_from_where_they_were_captured() -> None:
    with preserved_rng():
        draws()
        state = json.loads(json.dumps(capture_rng()))
        expected = [draws() for _ in range(3)]
        restore_rng(state)
        assert [draws() for _ in range(3)] == expected
