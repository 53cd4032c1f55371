"""Dividing one set of samples into named parts, at random but always the same way."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from noether.data.mixing import mix
from noether.data.permutation import permutation
from noether.errors import DataError

_SPLIT = 0x53504C4954  # keeps a split unrelated to the order of an epoch with the same seed


def split_indices(n: int, fractions: Mapping[str, float], seed: int) -> dict[str, torch.Tensor]:
    """Return the sample indices of each part; the parts are disjoint and cover all `n` samples.

    Args:
        n: Number of samples.
        fractions: Share of each part by name; together 1.
        seed: The same seed gives the same split.

    Returns:
        One ascending int64 tensor for each name.

    Raises:
        DataError: A fraction lies outside 0 … 1, or the fractions do not add up to 1.
    """
    if any(not 0 <= share <= 1 for share in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-9:
        raise DataError(f"the fractions of a split lie between 0 and 1 and add up to 1, found {dict(fractions)}")
    order = permutation(n, mix(seed, _SPLIT), 0)
    parts, start, covered = {}, 0, 0.0
    for place, (name, share) in enumerate(fractions.items(), start=1):
        covered += share
        end = n if place == len(fractions) else min(n, round(covered * n))
        parts[name] = order[start:end].sort().values
        start = end
    return parts


def train_test_indices(n: int, split: str, test_fraction: float, seed: int) -> torch.Tensor:
    """Return the ascending indices of the part `"train"` or `"test"`."""
    return split_indices(n, {"test": test_fraction, "train": 1 - test_fraction}, seed)[split]
