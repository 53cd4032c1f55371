"""Splits: train, validation and test parts of a data set, by chance, by group, by time, and k-fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from noether.config.components import DatasetBaseConfig
from noether.data.randomness import LARGEST_SORTED, Bijection, mix, permutation
from noether.errors import DataError

Part = Literal["train", "validation", "test"]
_TEST_FRACTION = 0.2
_OPTIONS = ("test_fraction", "validation_fraction", "folds", "fold", "split_by", "split_time", "split_seed")
_SOURCE = ("kind", "path", "targets", "missing")


class SplitConfig(DatasetBaseConfig):
    """Settings of a data set that can be split."""

    split: Part | None = Field(None, description="Part of a split; all samples without.")
    test_fraction: float = Field(
        _TEST_FRACTION, gt=0, lt=1, description="Share of the samples that is held out as `test`."
    )
    validation_fraction: float = Field(
        0.0, ge=0, lt=1, examples=[0.15], description="Share of the samples that is held out as `validation`."
    )
    folds: int | None = Field(
        None, ge=2, examples=[5], description="Number of equal parts for cross-validation; one of them is `test`."
    )
    fold: int | None = Field(None, ge=0, examples=[0], description="The fold that is `test`, from 0 to folds - 1.")
    split_seed: int | None = Field(None, examples=[0], description="Seed of the split; without it the seed of the run.")

    @model_validator(mode="after")
    def _one_split(self) -> Self:
        if (self.folds is None) != (self.fold is None):
            raise ValueError("folds and fold go together: found one of them, such as folds = 5 and fold = 0 expected")
        if self.folds is not None and self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"wrong fold: found {self.fold}, expected 0 to {self.folds - 1}, as folds = {self.folds}")
        if self.folds is not None and self.test_fraction != _TEST_FRACTION:
            raise ValueError(f"test_fraction = {self.test_fraction} has no effect with folds: leave out one of them")
        held_out = self.validation_fraction + (1 / self.folds if self.folds else self.test_fraction)
        if held_out >= 1:
            raise ValueError(f"no samples to train on: found {held_out:.3g} held out, expected less than 1")
        if self.split == "validation" and not self.validation_fraction:
            raise ValueError('split = "validation" without validation_fraction, such as validation_fraction = 0.15')
        return self


class ColumnSplitConfig(SplitConfig):
    """Settings of a data set that can be split by one of its columns."""

    split_by: str | None = Field(
        None,
        examples=["specimen"],
        description="Column of groups: the samples with one value stay together, in one part.",
    )
    split_time: str | None = Field(
        None,
        examples=["measured_on"],
        description="Column of times or other numbers: the last samples are `test`, those before them `validation`. "
        "Samples of one time stay together.",
    )

    @model_validator(mode="after")
    def _one_column(self) -> Self:
        if self.split_by is not None and self.split_time is not None:
            raise ValueError("split_by and split_time: found both, expected one of them")
        if self.split_time is not None and self.folds is not None:
            raise ValueError("folds with split_time would train on samples later than those of `test`: leave out one")
        return self

    @property
    def split_column(self) -> str | None:
        """Return the column that decides the split, if one does and a part is wanted."""
        return (self.split_by or self.split_time) if self.split is not None else None


# Shares of a random order

_SPLIT = 0x53504C4954  # keeps a split unrelated to the order of an epoch with the same seed


def split_indices(n: int, fractions: Mapping[str, float], seed: int) -> dict[str, Tensor]:
    """Return the sample indices of each part; the parts are disjoint and cover all `n` samples.

    Args:
        n: Number of samples.
        fractions: Share of each part by name; together 1.
        seed: The same seed gives the same split.

    Returns:
        One ascending int64 tensor for each name.

    Raises:
        DataError: if a fraction lies outside 0 … 1, or the fractions do not add up to 1.
    """
    if any(not 0 <= share <= 1 for share in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-9:
        raise DataError(f"wrong fractions of a split: found {dict(fractions)}, expected numbers from 0 to 1 with sum 1")
    order = permutation(n, mix(seed, _SPLIT), 0)
    parts, start, covered = {}, 0, 0.0
    for place, (name, share) in enumerate(fractions.items(), start=1):
        covered += share
        end = n if place == len(fractions) else min(n, round(covered * n))
        parts[name] = order[start:end].sort().values
        start = end
    return parts


def train_test_indices(n: int, split: str, test_fraction: float, seed: int) -> Tensor:
    """Return the ascending indices of the part `"train"` or `"test"`; a seed gives the same parts of any data set.

    Args:
        n: Number of samples.
        split: The part.
        test_fraction: Share of the samples that is held out as `"test"`.
        seed: The same seed gives the same parts.
    """
    return split_indices(n, {"test": test_fraction, "train": 1 - test_fraction}, seed)[split]


# Parts of a data set


def part_indices(config: SplitConfig, n: int, seed: int, codes: Tensor | None = None) -> Tensor | None:
    """Return the ascending indices of the part that a config asks for; None for all samples.

    Args:
        config: The split.
        n: Number of samples.
        seed: Seed of the run.
        codes: Number of the group of each sample, or of its time, from 0 on in the order of their values; None for a
            split of single samples.

    Raises:
        DataError: if the part would be empty, or there are fewer groups than parts.
    """
    if config.split is None:
        return None
    if codes is not None:
        return _whole_groups(config, codes, _key(config, seed))
    low, high, rotation = _places(config, n)
    order = permutation(n, _key(config, seed), 0)
    return order.roll(-rotation)[low:high].sort().values


def part_of_many(config: SplitConfig, n: int, seed: int) -> tuple[Bijection, int, int]:
    """Return a split of more samples than can be sorted: their order, and the places of the part in it.

    Raises:
        DataError: if the part would be empty, or is not in a row.
    """
    low, high, rotation = _places(config, n)
    if rotation:
        raise DataError(
            f"fold {config.fold} cannot be split off: found {n} samples, expected at most {LARGEST_SORTED}",
            hint="write the folds to files of their own, or use fold = 0",
        )
    return Bijection(n, mix(_key(config, seed), 0)), low, high


def _key(config: SplitConfig, seed: int) -> int:
    return mix(seed if config.split_seed is None else config.split_seed, _SPLIT)


def _places(config: SplitConfig, n: int) -> tuple[int, int, int]:
    """Return start and end of the part in the random order, after that was rotated by a number of places."""
    first, tested, held_out = _counts(config, n)
    low, high = _between(config, tested, held_out, n)
    if high <= low:
        raise DataError(
            f'too few samples: found {n}, of which split = "{config.split}" gets none',
            hint="raise the fraction of this part, or leave out the split",
        )
    return low, high, first


def _counts(config: SplitConfig, n: int) -> tuple[int, int, int]:
    """Return the samples before those of `test`, those of `test`, and those of `test` and `validation` together."""
    if config.folds is not None and config.folds > n:
        raise DataError(f"too few samples for folds = {config.folds}: found {n}, expected at least one for each fold")
    if config.folds is None or config.fold is None:
        both = config.test_fraction + config.validation_fraction
        return 0, min(n, round(config.test_fraction * n)), min(n, round(both * n))
    first, last = (round(fold * n / config.folds) for fold in (config.fold, config.fold + 1))
    return first, last - first, min(n, last - first + round(config.validation_fraction * n))


def _between(config: SplitConfig, tested: int, held_out: int, units: int) -> tuple[int, int]:
    """Return start and end of the part, where `test` comes first, then `validation`, then `train`."""
    return {"test": (0, tested), "validation": (tested, held_out), "train": (held_out, units)}[config.split or "train"]


def _whole_groups(config: SplitConfig, codes: Tensor, key: int) -> Tensor:
    """Return the samples of a part that is made of whole groups, with a size as near as possible to its share."""
    n, sizes = len(codes), torch.bincount(codes)
    by_time = getattr(config, "split_time", None) is not None
    groups, folds = len(sizes), config.folds or 1
    parts = max(folds, 3 if config.validation_fraction else 2)
    if groups < parts:
        raise _too_few(groups, parts)
    order = torch.arange(groups - 1, -1, -1) if by_time else permutation(groups, key, 0)
    if config.folds is not None and config.fold is not None:
        shares = [round(fold * n / folds) for fold in range(1, folds)]
        starts = [0, *_cuts(sizes[order], shares), groups]
        order, tested = order.roll(-starts[config.fold]), starts[config.fold + 1] - starts[config.fold]
        share = int(sizes[order[:tested]].sum()) + round(config.validation_fraction * n)
        left = _cuts(sizes[order], [share], after=tested) if config.validation_fraction else [tested]
        cuts = [tested, *left]
    else:
        _, *shares = _counts(config, n)
        large = sizes[order] > 2 * max(shares[0], shares[1] - shares[0])
        if not by_time:  # a group that would be most of a held-out part is trained on
            order = torch.cat([order[~large], order[large]])
        cuts = _cuts(sizes[order], shares if config.validation_fraction else shares[:1])
    low, high = _between(config, cuts[0], cuts[-1], groups)
    return torch.isin(codes, order[low:high]).nonzero()[:, 0]


def _cuts(sizes: Tensor, shares: Sequence[int], after: int = 0) -> list[int]:
    """Return the numbers of groups before each cut that hold about these numbers of samples; no part is empty."""
    ends, cuts = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)]), [after]
    for place, share in enumerate(shares):
        lowest, highest = cuts[-1] + 1, len(sizes) - (len(shares) - place)
        if highest < lowest:
            raise _too_few(len(sizes), len(sizes) + 1)
        cuts.append(lowest + int((ends[lowest : highest + 1] - share).abs().argmin()))
    return cuts[1:]


def _too_few(groups: int, parts: int) -> DataError:
    return DataError(
        f"too few groups for a split: found {groups} different values in its column, expected at least {parts}",
        hint="samples with one value stay together; leave out split_by or split_time for a split of single samples",
    )


def require_one_split(configs: Mapping[str, Any]) -> None:
    """Refuse parts of one source that are split in different ways, and categories with different numbers.

    Raises:
        DataError: if they differ: samples could be in two parts, or one number stand for two categories.
    """
    for (key, one), (other_key, other) in combinations(configs.items(), 2):
        places = f"[datasets.{key}] and [datasets.{other_key}]"
        for name, values in one.categories_by_name().items():
            if (found := other.categories_by_name().get(name, values)) != values:
                raise DataError(
                    f"different categories of {name!r} in {places}: found {list(values)} and {list(found)}, expected "
                    "the same in the same order, since their places are the numbers that the model learns"
                )
        if not (isinstance(one, SplitConfig) and isinstance(other, SplitConfig)) or None in (one.split, other.split):
            continue
        if one.split == other.split or any(getattr(one, n, None) != getattr(other, n, None) for n in _SOURCE):
            continue
        for name in _OPTIONS:
            if (mine := getattr(one, name, None)) != (others := getattr(other, name, None)):
                raise DataError(
                    f"parts of two splits: found {name} = {mine} and {others} in {places}, expected the same, or "
                    "samples could be in both parts",
                    hint=f"write the same {name} in every part of these data",
                )
