"""Orders that are computed and not held: complete, reproducible, of any size, as even as those that are sorted."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noether.data import randomness, samplers
from noether.data.randomness import Bijection, BlockShuffle, mix, permutation
from noether.data.samplers import TrainingOrder

words = st.integers(min_value=0, max_value=2**64 - 1)


@given(n=st.integers(1, 3000), word=words)
def test_a_bijection_has_every_entry_once(n: int, word: int) -> None:
    assert sorted(Bijection(n, word).at(torch.arange(n)).tolist()) == list(range(n))


@given(n=st.integers(1, 3000), block=st.integers(1, 200), word=words)
def test_a_block_shuffle_has_every_entry_once(n: int, block: int, word: int) -> None:
    assert sorted(BlockShuffle(n, block, word).at(torch.arange(n)).tolist()) == list(range(n))


@pytest.mark.parametrize("n", [10**9, 2**40 + 1, 2**63 - 1])
@given(places=st.lists(st.integers(0, 10**9 - 1), min_size=2, max_size=50, unique=True), word=words)
def test_entries_of_any_size_differ_and_lie_in_the_range(n: int, places: list[int], word: int) -> None:
    for order in (Bijection(n, word), BlockShuffle(n, 1000, word)):
        entries = order.at(torch.tensor(places))
        assert len(entries.unique()) == len(places)
        assert 0 <= int(entries.min()) <= int(entries.max()) < n
        one_by_one = [int(order.at(torch.tensor([place]))) for place in places]
        assert entries.tolist() == one_by_one


def test_the_orders_never_change_between_releases() -> None:
    assert Bijection(10, 0).at(torch.arange(10)).tolist() == [1, 2, 5, 9, 3, 8, 6, 0, 4, 7]
    assert Bijection(10**9, mix(3, 1)).at(torch.arange(4)).tolist() == [974846568, 109389693, 793219903, 256084133]
    assert BlockShuffle(1000, 4, mix(3, 1)).at(torch.arange(4)).tolist() == [29, 76, 20, 457]


@pytest.mark.parametrize(("n", "largest"), [(2, 12), (3, 20), (4, 25), (40, 95)])  # p = 5e-4 for 2, else below 5e-5
def test_every_entry_is_about_equally_likely_at_every_place(n: int, largest: float) -> None:
    words_ = 5_000
    orders = torch.stack([Bijection(n, mix(5, word)).at(torch.arange(n)) for word in range(words_)])
    for place in range(n):
        counts = torch.bincount(orders[:, place], minlength=n).double()
        assert float((counts - words_ / n).square().sum() / (words_ / n)) < largest  # chi-square of n - 1 degrees


@pytest.mark.parametrize("n", [2**29 + 1, 10**9])
def test_neighbours_and_epochs_are_unrelated_in_a_large_order(n: int) -> None:
    places = torch.arange(2**16)
    first, second = (Bijection(n, mix(3, epoch)).at(places).double() / n for epoch in (0, 1))
    for one, other in ((first[:-1], first[1:]), (first, second), (first, places.double())):
        assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 5 / 2**8
    cells = torch.bincount((first[:-1] * 16).long() * 16 + (first[1:] * 16).long(), minlength=256).double()
    assert float((cells - 256).square().sum() / 256) < 370  # chi-square, 255 degrees: p = 3e-6


def test_a_window_of_a_block_shuffle_reads_few_blocks() -> None:
    order = BlockShuffle(10**9, 1000, mix(3, 0))
    window = order.at(torch.arange(BlockShuffle.WINDOW * 1000)).sort().values
    gaps = int((window.diff() > 1).sum())
    assert gaps < BlockShuffle.WINDOW
    batch = order.at(torch.arange(256))
    assert len((batch // 1000).unique()) > 40  # yet a batch has samples of most of them


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute orders of more than 50 samples, a few at a time, so that small ones show what large ones do."""
    monkeypatch.setattr(randomness, "LARGEST_SORTED", 50)
    monkeypatch.setattr(samplers, "LARGEST_SORTED", 50)
    monkeypatch.setattr(samplers, "_COMPUTED", 24)


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.usefixtures("few")
def test_ranks_and_steps_see_the_slices_of_one_computed_order(drop_last: bool) -> None:
    whole = permutation(101, 7, 2)
    assert torch.equal(whole, Bijection(101, mix(7, 2)).at(torch.arange(101)))
    effective = 12
    ranks = [TrainingOrder(101, effective, 2, 7, rank, 3, drop_last=drop_last) for rank in range(3)]
    batches = [list(order.batches(2, first_update=1)) for order in ranks]
    filled = torch.cat([whole, whole])
    for update in range(1, ranks[0].updates_per_epoch):
        seen = torch.cat([torch.cat(own[(update - 1) * 2 : update * 2]) for own in batches])
        assert torch.equal(seen, filled[update * effective : (update + 1) * effective])


@pytest.mark.usefixtures("few")
def test_without_shuffling_a_computed_order_goes_from_first_to_last() -> None:
    order = TrainingOrder(101, 8, 4, shuffle=False)
    assert torch.cat(list(order.batches(3))).tolist() == list(range(96))


def test_a_training_order_shuffles_in_blocks() -> None:
    order = TrainingOrder(1000, 10, 10, 7, block=5)
    seen = torch.cat(list(order.batches(1)))
    assert torch.equal(seen, BlockShuffle(1000, 5, mix(7, 1)).at(torch.arange(1000)))
    assert torch.equal(torch.cat(list(order.batches(1, first_update=3))), seen[30:])


def test_the_order_of_a_billion_samples_takes_no_memory() -> None:
    code = """
import resource, torch
from noether.data.samplers import TrainingOrder
order = TrainingOrder(10**9, 64, 64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
batches = order.batches(0, first_update=12_345_678)
seen = torch.cat([next(batches) for _ in range(20_000)])
assert len(seen.unique()) == len(seen)
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kilobytes"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
