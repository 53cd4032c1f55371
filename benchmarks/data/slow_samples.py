"""A data set whose samples take time; in a module of its own, so that workers of every start method can import it."""

from __future__ import annotations

import time

import torch

from noether.data.dataset import Dataset


class SlowSamples(Dataset):
    """Waits for each sample, as for a disk, and tells how long it really took: sleeping is inexact on a busy machine.

    Args:
        first: Number of the first sample.
        size: Number of samples.
        cost_s: Seconds that a sample takes at least.
    """

    deterministic = True

    def __init__(self, first: int, size: int, cost_s: float) -> None:
        super().__init__()
        self.first, self.size, self.cost_s = first, size, cost_s

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        started = time.perf_counter()
        time.sleep(self.cost_s)
        number, x = torch.tensor(self.first + index), torch.full((32,), float(index))
        return {"number": number, "x": x, "seconds": torch.tensor(time.perf_counter() - started)}
