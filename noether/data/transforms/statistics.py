"""Mean, spread and range of a property over a whole data set, in one pass and in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class RunningStatistics:
    """Accumulates batch by batch; merges as in Chan, Golub & LeVeque (1979).

    Args:
        component_dim: Dimension of a sample whose entries get statistics of their own, or None for one
            statistic of everything. A sample that has no such dimension counts as one component.
    """

    def __init__(self, component_dim: int | None) -> None:
        self.component_dim = component_dim
        self.count = 0
        self.sample_dims = 0
        self.mean = torch.zeros((), dtype=torch.float64)
        self.squares = torch.zeros((), dtype=torch.float64)  # sum of squared deviations from the mean
        self.minimum = torch.full((), torch.inf, dtype=torch.float64)
        self.maximum = torch.full((), -torch.inf, dtype=torch.float64)

    def add(self, batch: Tensor) -> None:
        """Take in a batch of shape (batch, ...)."""
        values = batch.to(torch.float64)
        self.sample_dims = values.ndim - 1
        dims = self._reduced(values)
        count = math.prod(values.shape[dim] for dim in dims)
        mean = values.mean(dims, keepdim=True)
        squares = (values - mean).square_().sum(dims)
        mean = mean.squeeze(dims)
        delta, total = mean - self.mean, self.count + count
        self.squares = self.squares + squares + delta.square() * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = total
        self.minimum = torch.minimum(self.minimum, values.amin(dims))
        self.maximum = torch.maximum(self.maximum, values.amax(dims))

    def _reduced(self, values: Tensor) -> tuple[int, ...]:
        if self.component_dim is None or values.ndim < 2:
            return tuple(range(values.ndim))
        kept = self.component_dim + 1 if self.component_dim >= 0 else values.ndim + self.component_dim
        return tuple(dim for dim in range(values.ndim) if dim != kept)

    @property
    def deviation(self) -> Tensor:
        """Standard deviation of the population."""
        return (self.squares / max(1, self.count)).sqrt()

    @property
    def constant(self) -> Tensor:
        """Which components never vary; exact where the deviation may come out as a rounding error above 0."""
        return self.minimum == self.maximum
