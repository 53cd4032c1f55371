"""Updates that are not finite are never applied."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noether.errors import NonFiniteError
from noether.training.nonfinite import FiniteGuard

numbers = st.floats(-1e6, 1e6, width=32)
BROKEN = [math.nan, math.inf, -math.inf]


def guard(*, skip: bool = True, max_in_a_row: int = 3) -> FiniteGuard:
    return FiniteGuard(skip=skip, max_in_a_row=max_in_a_row)


@given(numbers, st.lists(st.lists(numbers, min_size=1, max_size=4), max_size=3))
def test_a_finite_update_is_applied_and_nothing_in_it_changes(loss: float, gradients: list[list[float]]) -> None:
    tensors = [torch.tensor(gradient) for gradient in gradients]
    before, total = [tensor.clone() for tensor in tensors], torch.tensor(loss)
    found = guard()
    assert found.admits(total, tensors)
    assert not found.was_skipped
    assert all(map(torch.equal, tensors, before))
    assert total == loss


@pytest.mark.parametrize("value", BROKEN)
@pytest.mark.parametrize("where", ["loss", "gradient", "earlier loss"])
def test_one_number_that_is_not_finite_holds_the_update_back(where: str, value: float) -> None:
    found = guard()
    if where == "earlier loss":
        found.keep(torch.tensor(value))
    gradient = torch.zeros(3)
    gradient[1] = value if where == "gradient" else 1.0
    loss = torch.tensor(value if where == "loss" else 1.0)
    assert not found.admits(loss, [torch.ones(2), gradient])
    assert found.was_skipped


def test_an_earlier_accumulation_step_counts_for_its_own_update_only() -> None:
    found = guard()
    found.keep(torch.tensor(math.nan))
    assert not found.admits(torch.tensor(1.0), [])
    assert found.admits(torch.tensor(1.0), [])


def test_a_loss_that_is_not_finite_is_known_before_its_update_is_complete() -> None:
    found = skipped(guard(), 1)
    found.keep(torch.tensor(1.0))
    assert not found.was_skipped  # of an update that goes on, whatever became of the one before
    found.keep(torch.tensor(math.nan))
    assert found.was_skipped


@given(st.lists(st.booleans(), max_size=12))
def test_skipped_updates_are_counted_in_a_row_and_in_all(finite: list[bool]) -> None:
    found, in_a_row = guard(), 0
    for is_finite in finite:
        assert found.admits(torch.tensor(1.0 if is_finite else math.nan), []) is is_finite
        in_a_row = 0 if is_finite else in_a_row + 1
        assert found.in_a_row == in_a_row
    assert found.skipped_updates == finite.count(False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_gradients_of_other_types_are_looked_at_too(dtype: torch.dtype) -> None:
    found = guard()
    assert found.admits(torch.tensor(1.0), [torch.ones(2), torch.ones(2, dtype=dtype)])
    assert not found.admits(torch.tensor(1.0), [torch.ones(2), torch.full((2,), math.nan, dtype=dtype)])


def skipped(found: FiniteGuard, times: int) -> FiniteGuard:
    for _ in range(times):
        found.admits(torch.tensor(math.nan), [])
    return found


def test_skipping_goes_on_until_too_many_in_a_row() -> None:
    skipped(found := guard(max_in_a_row=3), 2).raise_if_given_up(12, None)
    with pytest.raises(NonFiniteError) as caught:
        skipped(found, 1).raise_if_given_up(13, "runs/x/step-10")
    assert "3 updates in a row from update 11" in caught.value.message
    assert "runs/x/step-10" in caught.value.message
    assert "skip_nan_loss" not in str(caught.value)


def test_without_skipping_the_first_one_ends_the_run_and_says_how_to_skip() -> None:
    with pytest.raises(NonFiniteError) as caught:
        skipped(guard(skip=False), 1).raise_if_given_up(7, None)
    assert "update 7" in caught.value.message
    assert "skip_nan_loss = true" in str(caught.value)
    assert caught.value.exit_code == 4


def gradient(layout: str, dtype: torch.dtype, value: float) -> torch.Tensor:
    own = torch.ones(4, 3, dtype=dtype)
    own[2, 1] = value
    rows = torch.tensor([[0, 2, 2]])
    return {
        "plain": own,
        "transposed": own.T,
        "column": torch.ones(4, 8, dtype=dtype).copy_(own[2, 1])[:, 1:2],
        "scalar": own[2, 1],
        "empty": own[:0],
        "summed": torch.sparse_coo_tensor(rows, own[[0, 2, 1]], (4, 3), check_invariants=True),
    }[layout]


@given(
    kinds=st.lists(
        st.tuples(
            st.sampled_from(["plain", "transposed", "column", "scalar", "empty", "summed"]),
            st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64]),
        ),
        min_size=1,
        max_size=4,
    ),
    broken=st.integers(0, 7),
    value=st.sampled_from(BROKEN),
)
def test_gradients_of_every_kind_are_looked_at_and_not_changed(
    kinds: list[tuple[str, torch.dtype]], broken: int, value: float
) -> None:
    gradients = [
        gradient(layout, dtype, value if index == broken else 2.0) for index, (layout, dtype) in enumerate(kinds)
    ]
    before = [each.to_dense().clone() for each in gradients]
    is_broken = broken < len(kinds) and kinds[broken][0] != "empty"
    assert guard().admits(torch.tensor(1.0), gradients) is not is_broken
    assert all(
        torch.equal(was.nan_to_num(), now.to_dense().nan_to_num()) for was, now in zip(before, gradients, strict=True)
    )


def test_entries_of_a_sparse_gradient_that_overflow_in_their_sum_are_noticed() -> None:
    rows, values = torch.tensor([[1, 1]]), torch.full((2,), 60000.0, dtype=torch.float16)
    assert not guard().admits(torch.tensor(1.0), [torch.sparse_coo_tensor(rows, values, (4,), check_invariants=True)])
