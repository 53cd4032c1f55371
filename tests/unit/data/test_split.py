"""Splits: disjoint, complete, repeatable."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noether.data.randomness import permutation
from noether.data.splits import split_indices, train_test_indices
from noether.errors import DataError

shares = st.lists(st.integers(0, 20), min_size=1, max_size=5).filter(any)


@given(n=st.integers(0, 300), weights=shares, seed=st.integers())
def test_parts_are_disjoint_and_cover_everything(n: int, weights: list[int], seed: int) -> None:
    fractions = {f"part{place}": weight / sum(weights) for place, weight in enumerate(weights)}
    parts = split_indices(n, fractions, seed)
    assert sorted(index for part in parts.values() for index in part.tolist()) == list(range(n))
    assert all(abs(len(parts[name]) - share * n) <= 1 for name, share in fractions.items())


def test_train_and_test_are_the_two_sides_of_one_split() -> None:
    train = train_test_indices(1797, "train", 0.2, seed=3)
    test = train_test_indices(1797, "test", 0.2, seed=3)
    assert (len(train), len(test)) == (1438, 359)
    assert torch.cat([train, test]).sort().values.tolist() == list(range(1797))


def test_another_seed_gives_another_split() -> None:
    assert not torch.equal(train_test_indices(100, "test", 0.2, 0), train_test_indices(100, "test", 0.2, 1))


def test_a_split_does_not_follow_the_order_of_the_first_epoch() -> None:
    held_out = set(train_test_indices(100, "test", 0.2, seed=0).tolist())
    assert held_out != set(permutation(100, seed=0, epoch=0)[:20].tolist())


@pytest.mark.parametrize("fractions", [{"a": 0.5}, {"a": 1.5, "b": -0.5}])
def test_fractions_that_are_no_division_are_refused(fractions: dict[str, float]) -> None:
    with pytest.raises(DataError) as caught:
        split_indices(10, fractions, seed=0)
    assert "1" in str(caught.value)
