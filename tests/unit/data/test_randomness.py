"""A sample's seed, and the generators of the process around it."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noether.data.randomness import epoch_key, mix, preserved_rng, seed_sample


def sample_seed(seed: int, epoch: int, index: int) -> int:
    return mix(epoch_key(seed, epoch), index)


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@given(st.sets(st.tuples(st.integers(0, 50), st.integers(-1, 50), st.integers(0, 50)), min_size=2, max_size=50))
def test_different_samples_have_different_seeds(places: set[tuple[int, int, int]]) -> None:
    assert len({sample_seed(*place) for place in places}) == len(places)


def test_a_seeded_sample_draws_the_same_from_all_three_generators() -> None:
    with preserved_rng():
        seed_sample(sample_seed(0, 1, 2))
        first = draws()
        seed_sample(sample_seed(0, 1, 2))
        assert draws() == first
        seed_sample(sample_seed(0, 1, 3))
        assert all(one != other for one, other in zip(draws(), first, strict=True))


def test_seeds_of_the_whole_64_bit_range_are_accepted() -> None:
    with preserved_rng():
        for seed in (0, 2**63 - 1, 2**63, 2**64 - 1):
            seed_sample(seed)


def test_generators_are_given_back_as_found() -> None:
    with preserved_rng():
        seed_sample(11)
        expected = draws()
        seed_sample(11)
        with preserved_rng():
            draws()
        assert draws() == expected


def test_generators_are_given_back_after_an_error() -> None:
    with preserved_rng():
        seed_sample(11)
        expected = draws()
        seed_sample(11)
        with pytest.raises(RuntimeError), preserved_rng():
            draws()
            raise RuntimeError
        assert draws() == expected
