"""Results of batches, joined."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from noether.core.callbacks.evaluation import put_together
from noether.errors import TrainingError

sizes = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@given(sizes, st.integers(0, 2))
def test_tensors_of_any_batching_are_the_whole_data_set_in_order(batches: list[int], dims: int) -> None:
    whole = torch.arange(sum(batches) * 3**dims).reshape(-1, *([3] * dims))
    assert torch.equal(put_together(whole.split(batches)), whole)


@given(st.recursive(st.just("t"), lambda s: st.lists(s, max_size=2) | st.dictionaries(st.sampled_from("ab"), s)), sizes)
def test_containers_are_put_together_item_by_item(shape: Any, batches: list[int]) -> None:
    whole = torch.arange(float(sum(batches)))

    def filled(found: Any, values: Tensor) -> Any:
        if isinstance(found, dict):
            return {key: filled(item, values) for key, item in found.items()}
        return [filled(item, values) for item in found] if isinstance(found, list) else values

    def same(a: Any, b: Any) -> bool:
        if isinstance(b, Tensor):
            return torch.equal(a, b)
        items = [(a[key], b[key]) for key in b] if isinstance(b, dict) else zip(a, b, strict=True)
        return type(a) is type(b) and all(same(x, y) for x, y in items)

    assert same(put_together([filled(shape, part) for part in whole.split(batches)]), filled(shape, whole))


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([torch.tensor(1), torch.tensor(2)], torch.tensor([1, 2])),
        ([1, 2], torch.tensor([1, 2])),
        ([0.5, 1.5], torch.tensor([0.5, 1.5], dtype=torch.float64)),
        ([True, False], torch.tensor([True, False])),
    ],
    ids=["scalar tensors", "integers", "floats", "booleans"],
)
def test_numbers_become_one_tensor_with_an_entry_a_batch(results: list[Any], expected: Tensor) -> None:
    found = put_together(results)
    assert torch.equal(found, expected)
    assert found.dtype is expected.dtype


def test_a_tuple_stays_a_tuple_and_none_stays_none() -> None:
    assert put_together([(None, 1), (None, 2)])[0] is None
    assert isinstance(put_together([(1,), (2,)]), tuple)
    assert put_together([None, None]) is None


def test_no_batches_are_no_result() -> None:
    assert put_together([]) is None


@pytest.mark.parametrize(
    ("results", "found"),
    [
        ([torch.ones(1), 1.0], "Tensor, number"),
        ([None, 1.0], "NoneType, number"),
        ([{"a": 1}, {"b": 1}], "dict of 'a', dict of 'b'"),
        ([[1], [1, 2]], "list of 1, list of 2"),
        ([{"a": [1.0]}, {"a": [None]}], "NoneType, number"),
    ],
    ids=["types", "none", "keys", "lengths", "nested"],
)
def test_batches_that_return_different_things_are_refused(results: list[Any], found: str) -> None:
    with pytest.raises(TrainingError) as error:
        put_together(results)
    assert f"found {found}" in error.value.message


def test_results_of_a_wrong_type_are_refused() -> None:
    with pytest.raises(TrainingError) as error:
        put_together(["a", "b"])
    assert "returned a str" in error.value.message
