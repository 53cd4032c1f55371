"""Forms of a loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noether.errors import TrainingError
from noether.training.trainers.types import TrainerResult

ONE, TWO = torch.tensor(1.0), torch.tensor(2.0)


@pytest.mark.parametrize(
    ("losses", "total", "names"),
    [
        (ONE, 1.0, {"loss": 1.0}),
        ([ONE, TWO], 3.0, {"loss_0": 1.0, "loss_1": 2.0}),
        ({"a": TWO}, 2.0, {"a": 2.0}),
        ({"a": TWO, "b": ONE}, 3.0, {"a": 2.0, "b": 1.0}),
    ],
    ids=["tensor", "list", "one name", "two names"],
)
def test_losses_are_named_and_added_up(losses: Any, total: float, names: dict[str, float]) -> None:
    result = TrainerResult.of(losses)
    assert result.total_loss == total
    assert result.losses_to_log == names
    assert result.additional_outputs is None


@pytest.mark.parametrize("losses", [ONE, [ONE], {"a": ONE}], ids=["tensor", "list", "dict"])
def test_a_tuple_carries_additional_outputs(losses: Any) -> None:
    outputs = {"attention": torch.zeros(2)}
    result = TrainerResult.of((losses, outputs))
    assert result.total_loss == 1.0
    assert result.additional_outputs is outputs


@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=4))
def test_the_total_propagates_to_every_part(values: list[float]) -> None:
    parts = [torch.tensor(value, requires_grad=True) for value in values]
    TrainerResult.of(parts).total_loss.backward()
    assert all(part.grad == 1 for part in parts)


@pytest.mark.parametrize("losses", [{}, [], None, 1.5, "loss", (None, {})], ids=repr)
def test_a_result_without_a_loss_is_refused(losses: Any) -> None:
    with pytest.raises(TrainingError) as caught:
        TrainerResult.of(losses)
    assert caught.value.hint is not None


def test_adding_up_leaves_the_parts_as_they_are() -> None:
    losses = {"a": torch.tensor(1.0), "b": torch.tensor(2.0)}
    assert TrainerResult.of(losses).total_loss is not losses["a"]
    assert losses["a"] == 1.0
