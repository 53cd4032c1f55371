"""The order of an epoch: complete, different in each epoch, and reproducible."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from noether.data.randomness import mix, mix_range, permutation

seeds = st.integers(min_value=-(2**70), max_value=2**70)


@given(n=st.integers(0, 500), seed=seeds, epoch=st.integers(-1, 10**9))
def test_every_index_comes_exactly_once(n: int, seed: int, epoch: int) -> None:
    assert sorted(permutation(n, seed, epoch).tolist()) == list(range(n))


@given(seed=seeds, epoch=st.integers(0, 1000))
def test_epochs_and_seeds_have_orders_of_their_own(seed: int, epoch: int) -> None:
    order = permutation(100, seed, epoch)
    assert not torch.equal(order, permutation(100, seed, epoch + 1))
    assert not torch.equal(order, permutation(100, seed + 1, epoch))


@given(seed=seeds, epoch=st.integers(0, 1000))
def test_the_order_depends_on_nothing_but_its_arguments(seed: int, epoch: int) -> None:
    before = permutation(50, seed, epoch)
    torch.rand(7)
    assert torch.equal(before, permutation(50, seed, epoch))


def test_the_order_never_changes_between_releases() -> None:
    assert permutation(10, seed=0, epoch=0).tolist() == [5, 7, 8, 2, 9, 0, 3, 1, 6, 4]
    assert permutation(10, seed=0, epoch=1).tolist() == [3, 1, 9, 7, 0, 6, 4, 5, 8, 2]
    assert permutation(10, seed=123456789, epoch=7).tolist() == [4, 5, 0, 6, 3, 8, 7, 2, 1, 9]


def test_every_place_is_about_equally_likely() -> None:
    first = torch.stack([permutation(4, seed=5, epoch=epoch) for epoch in range(4000)])
    counts = torch.stack([(first == index).sum(0) for index in range(4)])
    assert counts.min() > 900
    assert counts.max() < 1100


def test_mixer_agrees_with_the_published_splitmix64() -> None:
    # The first outputs for seed 1234567 of Vigna's reference implementation (prng.di.unimi.it/splitmix64.c).
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [mix(1234567, place) for place in range(4)] == published


@given(word=seeds, n=st.integers(0, 50))
def test_array_and_integer_mixers_agree(word: int, n: int) -> None:
    assert mix_range(word, n).tolist() == [mix(word, place) for place in range(n)]
