"""Ranks that are threads of the test: they add up values as processes do, and start in no time."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from noether.training.parallel import Single


class Thread(Single):
    """One of the ranks; values are added up in the order of ranks."""

    def __init__(self, rank: int, shared: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.world = rank, len(shared)
        self._shared, self._barrier = shared, barrier

    def gather(self, value: Any) -> list[Any]:
        self._shared[self.rank] = value
        self._barrier.wait()
        found = list(self._shared)
        self._barrier.wait()
        return found

    def reduce(self, value: torch.Tensor) -> torch.Tensor:
        total = torch.stack(self.gather(value.detach().clone())).sum(0)
        return value.detach().copy_(total) if value.requires_grad else value.copy_(total)


def on_threads(world: int, work: Callable[[Thread], Any]) -> list[Any]:
    """Do work on each of several ranks; return the results, in the order of ranks."""
    shared, barrier = [None] * world, threading.Barrier(world, timeout=30)
    with ThreadPoolExecutor(world) as pool:
        futures = [pool.submit(work, Thread(rank, shared, barrier)) for rank in range(world)]
        for future in futures:
            if (error := future.exception()) is not None and not isinstance(error, threading.BrokenBarrierError):
                barrier.abort()
                raise error
        return [future.result() for future in futures]


@pytest.fixture(scope="session")
def in_threads() -> Callable[..., list[Any]]:
    """Do work on several ranks that are threads: `in_threads(3, lambda rank: rank.reduce(values[rank.rank]))`."""
    return on_threads
