"""Cutting an update into forward passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether.errors import SpecError
from noether.training.trainers.config import cut_update

sizes = st.integers(1, 60)


@given(sizes, st.none() | sizes, st.integers(1, 4))
def test_passes_are_the_fewest_equal_ones_that_fit(per_rank: int, bound: int | None, ranks: int) -> None:
    batch_size, accumulation_steps = cut_update(per_rank * ranks, max_batch_size=bound, world_size=ranks)
    assert batch_size * accumulation_steps == per_rank
    assert batch_size <= (bound or per_rank)
    larger = range(batch_size + 1, min(bound or per_rank, per_rank) + 1)
    assert not any(per_rank % size == 0 for size in larger)


@given(sizes, st.integers(2, 8))
def test_a_batch_that_does_not_divide_by_the_ranks_is_refused_with_one_that_does(size: int, ranks: int) -> None:
    if size % ranks == 0:
        assert cut_update(size, world_size=ranks) == (size // ranks, 1)
        return
    with pytest.raises(SpecError) as caught:
        cut_update(size, world_size=ranks)
    assert f"found {size}, expected a multiple of the {ranks} ranks" in str(caught.value)
    assert caught.value.hint is not None
    proposed = int(caught.value.hint.partition("=")[2].partition(",")[0])
    assert cut_update(proposed, world_size=ranks) == (proposed // ranks, 1)


@given(sizes, sizes, st.integers(1, 4))
def test_accumulation_that_is_not_allowed_is_refused(per_rank: int, bound: int, ranks: int) -> None:
    if bound >= per_rank:
        assert cut_update(per_rank * ranks, max_batch_size=bound, world_size=ranks, accumulate=False)
        return
    with pytest.raises(SpecError) as caught:
        cut_update(per_rank * ranks, max_batch_size=bound, world_size=ranks, accumulate=False)
    assert f"found {bound}, expected at least {per_rank}" in str(caught.value)
