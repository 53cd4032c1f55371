"""Evaluation between epochs: one interleaved stream compared with the two obvious ways, on two workers.

The obvious ways are a new iterator for every pass, as most frameworks have it, and two loaders with persistent workers.
A sample takes 0.2 ms at least; it is slept, so that a busy machine changes little, and every sample tells how long it
really took. What is reported is the time of an epoch with its evaluation over the summed cost of its samples divided
by the workers: 1.0 is the floor. The first epoch, in which workers start, is left out on all sides.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from noether.data.container import DataContainer
from noether.data.dataset import AnyDataset, Batch
from noether.data.loader import evaluation_pass
from noether.data.randomness import permutation
from noether.data.samplers import TRAINING

TRAIN, TEST, BATCH, WORKERS = 400, 100, 20, 2
COST_S = 2e-4
EPOCHS = 5
ROUNDS = 3
GOAL, SLACK = 1.2, 0.2
"""The slack is for machines whose cores are busy with something else."""

Sets = dict[str, AnyDataset]
Epoch = list[Batch]


@pytest.fixture
def sets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sets]:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    slow: Any = import_module("slow_samples").SlowSamples
    yield {"train": slow(0, TRAIN, COST_S), "test": slow(TRAIN, TEST, COST_S)}
    del sys.modules["slow_samples"]


def ours(sets: Sets, start_method: str | None = None) -> Iterator[Epoch]:
    """Yield the batches of each epoch, training before evaluation; the stream goes on beyond the last one."""
    data = DataContainer(sets, num_workers=WORKERS, start_method=start_method)
    request = data.sampler_config("test", every_n_epochs=1)
    stream = iter(data.build_loader([request], batch_size=BATCH))
    training = (batch for tag, _, batch in stream if tag == TRAINING)
    for _ in range(EPOCHS):
        yield [*(next(training) for _ in range(TRAIN // BATCH)), *evaluation_pass(stream, request, BATCH)]


def new_iterators(sets: Sets) -> Iterator[Epoch]:
    """Yield the same with workers that are started for each pass."""
    yield from _torchs(sets, persistent=False)


def persistent_workers(sets: Sets) -> Iterator[Epoch]:
    """Yield the same with workers that stay, a pool for each of the two loaders."""
    yield from _torchs(sets, persistent=True)


def _torchs(sets: Sets, *, persistent: bool) -> Iterator[Epoch]:
    order: list[int] = []
    options: Any = {"batch_size": BATCH, "num_workers": WORKERS, "persistent_workers": persistent}
    training = torch.utils.data.DataLoader(sets["train"], sampler=order, **options)
    evaluation = torch.utils.data.DataLoader(sets["test"], **options)
    for epoch in range(EPOCHS):
        order[:] = permutation(TRAIN, 0, epoch).tolist()
        yield [*training, *evaluation]


def ratios(epochs: Iterator[Epoch]) -> list[float]:
    """Return the time of each epoch after the first, as a multiple of its samples' cost over the workers."""
    next(epochs)
    found, started = [], time.perf_counter()
    for epoch in epochs:
        ended = time.perf_counter()
        cost = sum(float(batch["seconds"].sum()) for batch in epoch)
        found.append((ended - started) * WORKERS / cost)
        started = time.perf_counter()
    return found


def samples(epochs: Iterator[Epoch]) -> list[list[int]]:
    return [[number for batch in epoch for number in batch["number"].tolist()] for epoch in epochs]


def test_evaluation_between_epochs_beside_the_obvious_ways(benchmark: BenchmarkFixture, sets: Sets) -> None:
    """Each consumer gets its samples in the same order, within 1.2 times the cost of the samples."""
    ways = (ours, new_iterators, persistent_workers)
    expected, *others = (samples(way(sets)) for way in ways)
    assert others == [expected, expected]

    measured: dict[str, list[float]] = {way.__name__: [] for way in ways}
    for _ in range(ROUNDS):
        for way in ways:
            measured[way.__name__] += ratios(way(sets))
    medians = {name: statistics.median(found) for name, found in measured.items()}
    benchmark.extra_info.update(**medians)
    benchmark.pedantic(ratios, args=(ours(sets),), rounds=1)
    print("\nan epoch over its floor: " + ", ".join(f"{name} {found:.2f}" for name, found in medians.items()))
    assert medians["ours"] <= GOAL + SLACK
    assert medians["ours"] < medians["new_iterators"]


@pytest.mark.long
@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
def test_every_start_method_is_as_fast_once_its_workers_run(
    benchmark: BenchmarkFixture, sets: Sets, start_method: str
) -> None:
    found = benchmark.pedantic(lambda: statistics.median(ratios(ours(sets, start_method))), rounds=1)
    benchmark.extra_info["over_floor"] = found
    print(f"\nan epoch over its floor, workers started by {start_method}: {found:.2f}")
    assert found <= GOAL + SLACK
