"""The samples of each update, for every world size and number of accumulation steps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noether.data.randomness import permutation
from noether.data.samplers import TrainingOrder, updates_per_epoch
from noether.errors import DataError


@given(
    world_size=st.integers(1, 4),
    batch_size=st.integers(1, 5),
    steps=st.integers(1, 4),
    updates=st.integers(1, 6),
    rest=st.integers(0, 10),
    epoch=st.integers(0, 5),
    data=st.data(),
)
def test_ranks_and_steps_together_see_the_same_update_as_one_process(
    world_size: int, batch_size: int, steps: int, updates: int, rest: int, epoch: int, data: st.DataObject
) -> None:
    effective = world_size * batch_size * steps
    samples = effective * updates + min(rest, effective - 1)
    first = data.draw(st.integers(0, updates - 1))
    ranks = [TrainingOrder(samples, effective, batch_size, 7, rank, world_size) for rank in range(world_size)]
    batches = [list(order.batches(epoch, first)) for order in ranks]
    assert all(len(own) == (updates - first) * steps for own in batches)
    assert all(len(batch) == batch_size for own in batches for batch in own)
    whole = permutation(samples, 7, epoch)
    for update in range(first, updates):
        part = slice((update - first) * steps, (update - first + 1) * steps)
        seen = torch.cat([torch.cat(own[part]) for own in batches])
        assert torch.equal(seen, whole[update * effective : (update + 1) * effective])


def test_samples_that_do_not_fill_an_update_are_left_out() -> None:
    order = TrainingOrder(samples=11, effective_batch_size=4, batch_size=2)
    assert (order.updates_per_epoch, order.accumulation_steps) == (2, 2)
    assert len(torch.cat(list(order.batches(0))).unique()) == 8


def test_a_training_set_smaller_than_one_update_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        updates_per_epoch(10, 32)
    assert "10" in str(caught.value)
    assert "32" in str(caught.value)
    assert caught.value.hint == "set effective_batch_size to at most 10"


def test_batch_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(DataError) as caught:
        TrainingOrder(samples=100, effective_batch_size=8, batch_size=3)
    assert "effective_batch_size" in str(caught.value)
    assert "8" in str(caught.value)
    assert "3" in str(caught.value)


def test_a_limit_leaves_the_first_updates_of_each_epoch() -> None:
    whole, limited = (TrainingOrder(40, 8, 4, seed=3, limit=limit) for limit in (None, 2))
    assert (whole.updates_per_epoch, limited.updates_per_epoch) == (5, 2)
    for epoch in (0, 1):
        assert torch.equal(torch.cat(list(limited.batches(epoch))), torch.cat(list(whole.batches(epoch))[:4]))


def test_a_limit_above_the_length_of_an_epoch_changes_nothing() -> None:
    assert TrainingOrder(40, 8, 8, limit=9).updates_per_epoch == 5
    assert updates_per_epoch(41, 8, drop_last=False, limit=9) == 6
