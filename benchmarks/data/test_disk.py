"""Batches of a file that stays on disk: beside the same data in memory, and beside bare reads of the same bytes.

Both sides are checked to give equal batches before they are timed. "Cold" drops the file from the kernel's cache before
each round, so that the disk is read. The ratios go into `extra_info`; the gate does not compare them: they are those
of a disk.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from noether.data.container import DataContainer
from noether.data.dataset import InMemoryDataset
from noether.data.randomness import permutation
from noether.data.samplers import TRAINING
from noether.data.sources.file import DiskConfig, DiskDataset

ROWS, WIDTH, BATCH, SEED, ROUNDS = 1 << 15, 1 << 10, 64, 3, 5  # 128 MiB, 4 KiB a sample
UPDATES = ROWS // BATCH
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32))
    os.sync()
    return path


def batches(dataset: Any) -> Iterator[torch.Tensor]:
    loader = DataContainer({"train": dataset}, seed=SEED).build_loader(batch_size=BATCH, end_update=UPDATES)
    return (batch["x"] for tag, _, batch in loader if tag == TRAINING)


def bare_reads(path: Path) -> Iterator[torch.Tensor]:
    """Yield the same batches by one read of the system for each sample."""
    size = WIDTH * 4
    with path.open("rb") as file:
        start = path.stat().st_size - ROWS * size
        for indices in permutation(ROWS, SEED, 0).split(BATCH):
            batch = torch.empty(BATCH, WIDTH)
            rows = memoryview(batch.numpy()).cast("B")
            for place, index in enumerate(indices.tolist()):
                os.preadv(file.fileno(), [rows[place * size : (place + 1) * size]], start + index * size)
            yield batch


def seconds(iterator: Iterator[torch.Tensor]) -> float:
    start = time.perf_counter()
    for _ in iterator:
        pass
    return time.perf_counter() - start


def cold(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def compare(path: Path, mine: Callable[[], Any], other: Callable[[], Any], *, is_cold: bool) -> tuple[float, float]:
    """Return the median seconds of an epoch of both, measured in turn, and of their ratios."""
    assert all(map(torch.equal, mine(), other()))
    rounds = []
    for _ in range(ROUNDS):
        times = []
        for side in (mine, other):
            if is_cold:
                cold(path)
            times.append(seconds(side()))
        rounds.append(times)
    return statistics.median(one for one, _ in rounds), statistics.median(one / two for one, two in rounds)


def stored(path: Path, **options: Any) -> DiskDataset:
    return DiskDataset(DiskConfig(kind="disk", path=str(path), **options))


def test_batches_of_a_cached_file_against_memory(path: Path, benchmark: BenchmarkFixture) -> None:
    memory = InMemoryDataset({"x": torch.from_numpy(np.load(path))})
    taken, ratio = compare(path, lambda: batches(stored(path)), lambda: batches(memory), is_cold=False)
    benchmark.extra_info.update(of_memory=ratio, microseconds=taken / UPDATES * 1e6)
    print(f"\ncached: {taken / UPDATES * 1e6:.0f} µs a batch, {ratio:.2f} of memory")
    benchmark.pedantic(lambda: seconds(batches(stored(path))), rounds=1)


def test_batches_of_a_cold_file_against_bare_reads(path: Path, benchmark: BenchmarkFixture) -> None:
    taken, ratio = compare(path, lambda: batches(stored(path)), lambda: bare_reads(path), is_cold=True)
    benchmark.extra_info.update(of_reads=ratio, megabytes_a_second=ROWS * WIDTH * 4 / 1e6 / taken)
    print(f"\ncold: {ROWS * WIDTH * 4 / 1e6 / taken:.0f} MB/s, {ratio:.2f} of the time of bare reads")
    benchmark.pedantic(lambda: seconds(batches(stored(path))), rounds=1)


def test_blocks_of_a_cold_file_against_bare_reads(path: Path, benchmark: BenchmarkFixture) -> None:
    """Read 64 samples in a row instead of one, with the same number of bytes."""
    cold(path)
    rounds = []
    for _ in range(ROUNDS):
        cold(path)
        blocks = seconds(batches(stored(path, shuffle_block=64)))
        cold(path)
        rounds.append((blocks, seconds(bare_reads(path))))
    taken, ratio = (statistics.median(one for one, _ in rounds), statistics.median(one / two for one, two in rounds))
    benchmark.extra_info.update(of_reads=ratio, megabytes_a_second=ROWS * WIDTH * 4 / 1e6 / taken)
    print(f"\ncold, in blocks: {ROWS * WIDTH * 4 / 1e6 / taken:.0f} MB/s, {ratio:.2f} of the time of bare reads")
    benchmark.pedantic(lambda: seconds(batches(stored(path, shuffle_block=64))), rounds=1)
