"""Forms of a loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noether.errors import TrainingError
from noether.training.trainers.types import Counted, TrainerResult, check_parts, detached

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


def test_a_part_may_be_a_number() -> None:
    result = TrainerResult.of({"mse": TWO, "off": 0.0, "one": 1})
    assert result.total_loss == 3.0
    assert {name: type(part) for name, part in result.losses_to_log.items()} == dict.fromkeys(
        ["mse", "off", "one"], torch.Tensor
    )
    assert result.count is None


def test_a_part_may_say_what_it_is_a_mean_of() -> None:
    result = TrainerResult.of(({"a": Counted(TWO, 7), "b": ONE, "c": 0.5 * Counted(TWO, "sum")}, None))
    assert result.total_loss == 4.0
    assert result.losses_to_log == {"a": 2.0, "b": 1.0, "c": 1.0}
    assert result.count == {"a": 7, "c": "sum"}
    assert TrainerResult.of(Counted(TWO, 7)).count == {"loss": 7}


def test_a_whole_result_is_taken_as_it_is() -> None:
    result = TrainerResult(ONE, count=3)
    assert TrainerResult.of(result) is result


@pytest.mark.parametrize("part", [None, "text", {"inner": ONE}, [ONE], True], ids=repr)
def test_a_part_of_another_type_is_refused_by_its_name(part: Any) -> None:
    with pytest.raises(TrainingError) as caught:
        TrainerResult.of({"fine": ONE, "strange": part})
    assert "'strange'" in caught.value.message


def test_the_part_that_is_not_reduced_is_named() -> None:
    with pytest.raises(TrainingError) as caught:
        TrainerResult.of({"fine": ONE, "raw": torch.zeros(4)})
    assert "'raw' of (4,)" in caught.value.message
    assert "fine" not in caught.value.message


@pytest.mark.parametrize("losses", [(ONE, {}, {}), (ONE,), (ONE, ONE)], ids=["three", "one", "two losses"])
def test_a_tuple_of_other_things_is_refused(losses: Any) -> None:
    with pytest.raises(TrainingError):
        TrainerResult.of(losses)


def test_outputs_lose_their_graphs_and_those_that_are_none_are_left_out() -> None:
    value = torch.tensor(1.0, requires_grad=True) * 2
    found = detached({"a": value, "none": None, "number": 0.5, "nested": {"b": [value, None]}, "text": "t"})
    assert found == {"a": value, "number": 0.5, "nested": {"b": [value, None]}, "text": "t"}
    assert not found["a"].requires_grad
    assert not found["nested"]["b"][0].requires_grad


@pytest.mark.parametrize("count", [-1, None, "mean", torch.ones(3), float("nan"), 1j])
def test_a_count_is_one_number_or_sum(count: Any) -> None:
    with pytest.raises(TrainingError, match="wrong count"):
        Counted(torch.ones(()), count)


@pytest.mark.parametrize("count", [0, 2.5, "sum", torch.tensor(3), torch.tensor(True)])
def test_counts_of_any_real_type_are_taken(count: Any) -> None:
    assert TrainerResult(torch.ones(()), count=Counted(torch.ones(()), count).count).count is count


def test_counts_name_losses_to_log() -> None:
    with pytest.raises(TrainingError, match="'b'"):
        TrainerResult.of(TrainerResult(torch.ones(()), losses_to_log={"a": torch.ones(())}, count={"b": 2}))


def test_parts_of_a_result_do_not_contradict_its_total() -> None:
    one, two = torch.ones(()), torch.tensor(2.0)
    check_parts(TrainerResult(one, losses_to_log={"total": one.clone(), "other": torch.ones(3)}))
    check_parts(TrainerResult(two, losses_to_log={"a": one, "b": 1.0}, count={"a": 4}))  # type: ignore[dict-item]
    for wrong in (
        TrainerResult(two, losses_to_log={"total": one}),
        TrainerResult(one, losses_to_log={"a": one, "b": one}, count={"a": 4}),
    ):
        with pytest.raises(TrainingError, match="expected the total"):
            check_parts(wrong)


def test_a_nested_loss_is_named() -> None:
    with pytest.raises(TrainingError, match="'m'"):
        TrainerResult.of({"m": {"a": torch.ones(())}})  # type: ignore[dict-item]
