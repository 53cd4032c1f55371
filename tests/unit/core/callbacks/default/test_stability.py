"""Norms of gradients and weights of any type and layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from noether.core.models.base import ModelBase
from noether.optim.model_optimizer import ModelOptimizer
from noether.testing import make_callback, make_counter, make_trainer


class Odd(ModelBase):
    """Weights of several types, one with a sparse gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.ones(4, 2))
        self.small = torch.nn.Parameter(torch.full((3,), 300.0, dtype=torch.float16))
        self.turned = torch.nn.Parameter(torch.full((2,), 3 + 4j, dtype=torch.complex64))
        self.empty = torch.nn.Parameter(torch.ones(0))
        self.optimizer = ModelOptimizer(torch.optim.SGD(self.parameters()), names=["table", "small", "turned", "empty"])


def seen(folder: Path, model: Odd) -> dict[str, float]:
    trainer = make_trainer(folder)
    callback: Any = make_callback({"kind": "training-stability", "every_n_updates": 1}, trainer)
    with torch.no_grad():
        callback.before_optimizer_step(update_counter=make_counter(), model=model)
    return {name: float(value) for name, value in callback.state_dict()["seen"].items()}


def test_norms_are_those_of_all_numbers(tmp_path: Path) -> None:
    model = Odd()
    rows, values = torch.tensor([[1, 1]]), torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    model.table.grad = torch.sparse_coo_tensor(
        rows, values, (4, 2), check_invariants=True
    )  # two entries at one place count as their sum
    model.small.grad = torch.full((3,), 60000.0, dtype=torch.float16)
    model.turned.grad = torch.full((2,), 3 + 4j, dtype=torch.complex64)
    found = seen(tmp_path, model)
    assert found["gradient_norm"] == pytest.approx((2**2 + 4**2 + 3 * 60000**2 + 2 * 25) ** 0.5)
    assert found["model_norm"] == pytest.approx((8 + 3 * 300**2 + 2 * 25) ** 0.5)
    assert found["non_finite_gradients"] == 0


def test_numbers_that_are_not_finite_are_counted_in_sparse_gradients_too(tmp_path: Path) -> None:
    model = Odd()
    rows, values = torch.tensor([[1, 3]]), torch.tensor([[1.0, float("nan")], [float("inf"), 0.0]])
    model.table.grad = torch.sparse_coo_tensor(rows, values, (4, 2), check_invariants=True)
    assert seen(tmp_path, model)["non_finite_gradients"] == 2


def test_an_update_without_gradients_has_a_norm_of_zero(tmp_path: Path) -> None:
    found = seen(tmp_path, Odd())
    assert found["gradient_norm"] == found["non_finite_gradients"] == 0
