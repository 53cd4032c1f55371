"""The cost of an index of the training order: 10⁹ samples without a permutation, beside one that is sorted and held.

The order that is measured is checked to hold no sample twice. The nanoseconds and the ratio go into `extra_info`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.timing import interleaved
from noether.data.randomness import Bijection, BlockShuffle, mix
from noether.data.samplers import TrainingOrder

GOAL = 50  # nanoseconds an index
INDICES = 1 << 22
BATCH = 256
ROUNDS = 5
SIZES = (10**9, (1 << 29) + 1)  # the second takes the rounds of the bijection twice as often: the worst size
pytestmark = pytest.mark.usefixtures("one_thread")


def beside(call: Callable[[], object]) -> dict[str, float]:
    """Return the quickest nanoseconds of an index, those of an order that is held, and the ratio of both."""
    timing = interleaved({"ours": call, "obvious": obvious}, rounds=ROUNDS)
    mine, theirs = (min(seconds) / INDICES * 1e9 for seconds in timing.seconds.values())
    return {"ratio": timing.ratio("ours", "obvious"), "nanoseconds": mine, "randperm_nanoseconds": theirs}


def ours(samples: int, block: int | None = None) -> torch.Tensor:
    """Return the first indices of an epoch, cut into batches as training reads them."""
    batches = TrainingOrder(samples, BATCH, BATCH, seed=3, block=block).batches(0)
    return torch.cat([next(batches) for _ in range(INDICES // BATCH)])


def obvious() -> torch.Tensor:
    """Return an order of as many samples as indices are measured; that of 10⁹ would hold 8 GB."""
    return torch.cat(torch.randperm(INDICES, generator=torch.Generator().manual_seed(3)).split(BATCH))


@pytest.mark.parametrize("samples", SIZES)
def test_an_index_of_a_billion_samples(samples: int, benchmark: BenchmarkFixture) -> None:
    found = ours(samples)
    assert len(found.unique()) == INDICES
    assert torch.equal(found, Bijection(samples, mix(3, 0)).at(torch.arange(INDICES)))
    figures = beside(lambda: ours(samples))
    benchmark.extra_info |= figures
    print(f"\n{samples:,} samples: {figures}")
    benchmark.pedantic(lambda: ours(samples), rounds=1)
    assert figures["nanoseconds"] <= GOAL


def test_an_index_of_a_billion_samples_shuffled_in_blocks(benchmark: BenchmarkFixture) -> None:
    found = ours(10**9, block=4096)
    assert torch.equal(found, BlockShuffle(10**9, 4096, mix(3, 0)).at(torch.arange(INDICES)))
    figures = beside(lambda: ours(10**9, block=4096))
    benchmark.extra_info |= figures
    print(f"\nin blocks: {figures}")
    benchmark.pedantic(lambda: ours(10**9, block=4096), rounds=1)
