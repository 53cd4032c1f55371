"""Uneven sampling: epochs drawn by weight, balanced by class, cut into buckets by size, or mixed from several parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from noether.config.components import SamplingTable
from noether.data.dataset import AnyDataset, InMemoryDataset, length_of, shuffle_block
from noether.data.fetch import first_sample, whole_batches
from noether.data.randomness import mix, permutation
from noether.errors import DataError, SpecError
from noether.kernel.names import did_you_mean

_ROW, _UPDATES, _PARTS = 0x524F57, 0x55504454, 0x50415254  # keep these orders unrelated to that of the epoch


class Sampling(Protocol):
    """An order of training other than each sample once: a pure function of seed and epoch."""

    def order(self, size: int, update: int, seed: int, epoch: int) -> Tensor:
        """Return the samples of an epoch, int64 of shape (size,).

        Args:
            size: Samples in the epoch, a multiple of `update`.
            update: Samples in an update.
            seed: Seed of the run.
            epoch: Epoch, from 0.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Draw each sample in proportion to its weight: its share of an epoch, rounded down or up.

    The epoch is a row of equal places; each sample covers its share of the row, and every place takes the sample above
    it. So equal weights visit each sample once.

    Attributes:
        weights: One number a sample, float64, not negative.
        classes: One number a sample; samples of a class are side by side, so that its share is rounded as a whole.
    """

    weights: Tensor
    classes: Tensor | None = None

    def order(self, size: int, update: int, seed: int, epoch: int) -> Tensor:
        """Return the samples of an epoch."""
        del update
        row = permutation(len(self.weights), mix(seed, _ROW), epoch)
        if self.classes is not None:
            row = row[self.classes[row].argsort(stable=True)]
        ends = self.weights[row].cumsum(0)
        last = int(self.weights[row].nonzero()[-1])  # of rounding, a place may lie behind the end
        shift = (mix(mix(seed, _ROW), epoch) >> 11) / 2**53
        places = permutation(size, seed, epoch).double().add_(shift).mul_(float(ends[-1]) / size)
        return row[torch.searchsorted(ends, places, right=True).clamp_(max=last)]


@dataclass(frozen=True, slots=True, eq=False)
class Buckets:
    """Visit each sample once, and put samples of similar size into the same update, so that little is padded.

    Samples are shuffled, cut into pools, sorted by size within their pool and cut into updates, which are shuffled.

    Attributes:
        sizes: One number a sample.
        pool: Updates in a pool.
    """

    sizes: Tensor
    pool: int

    def order(self, size: int, update: int, seed: int, epoch: int) -> Tensor:
        """Return the samples of an epoch."""
        order = permutation(len(self.sizes), seed, epoch)
        order = order.repeat(-(-size // len(order)))[:size]
        pools = torch.split(order, self.pool * update)
        by_size = [pool[torch.argsort(self.sizes[pool], stable=True)] for pool in pools]
        updates = torch.cat(by_size).view(-1, update)
        return updates[permutation(len(updates), mix(seed, _UPDATES), epoch)].reshape(-1)


@dataclass(frozen=True, slots=True)
class Mixed:
    """Draw from several parts, which lie one behind the other, each a fixed number of samples an epoch.

    Each part is visited in passes of its own, which go on from epoch to epoch: none of its samples is drawn again
    before all others were.

    Attributes:
        sizes: Samples of each part.
        weights: Share of each part in an epoch; their sum does not matter.
        length: Samples in an epoch.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...]
    length: int

    @property
    def counts(self) -> tuple[int, ...]:
        """Samples of each part in an epoch; together `length`."""
        return shares(self.length, self.weights)

    def order(self, size: int, update: int, seed: int, epoch: int) -> Tensor:
        """Return the samples of an epoch."""
        del update
        drawn, first = [], 0
        for part, (samples, count) in enumerate(zip(self.sizes, self.counts, strict=True)):
            key = mix(mix(seed, _PARTS), part)
            drawn.append(self._drawn(samples, range(epoch * count, (epoch + 1) * count), key) + first)
            first += samples
        mixed = torch.cat(drawn)[permutation(self.length, seed, epoch)]
        return mixed.repeat(-(-size // self.length))[:size]

    @staticmethod
    def _drawn(samples: int, draws: range, key: int) -> Tensor:
        """Return the samples of a part at these places of its passes."""
        if not draws:
            return torch.empty(0, dtype=torch.int64)
        passes = range(draws.start // samples, (draws.stop - 1) // samples + 1)
        orders = torch.cat([permutation(samples, key, number) for number in passes])
        start = draws.start - passes.start * samples
        return orders[start : start + len(draws)]


def shares(total: int, weights: Sequence[float]) -> tuple[int, ...]:
    """Return whole numbers in proportion to weights, together `total`."""
    ends = np.rint(np.cumsum(np.asarray(weights, dtype=np.float64)) / np.sum(weights) * total)
    return tuple(int(end - start) for start, end in pairwise([0, *ends.tolist()]))


def mixture_of(dataset: AnyDataset) -> Mixed | None:
    """Return the order that a data set asks for if it is a mixture, else None."""
    found = getattr(dataset, "mixture", None)
    return found if isinstance(found, Mixed) else None


def order_of(
    table: SamplingTable | None, dataset: AnyDataset, seed: int = 0, *, shuffle: bool = True
) -> Sampling | None:
    """Return the order that a trainer's `sampling` or a mixture asks for; None for each sample once.

    Args:
        table: The table of the trainer.
        dataset: The training set before its transforms.
        seed: Seed of the run, for samples that are random.
        shuffle: False if the trainer asks for the samples in their own order.

    Raises:
        DataError: if two orders are asked for, or the numbers are missing, of a wrong shape or of a wrong value.
        SpecError: if the trainer asks for the samples in their own order.
    """
    mixture = mixture_of(dataset)
    if table is None and mixture is None:
        return None
    if not shuffle:
        raise SpecError("two orders of training: found shuffle = False, and samples that are drawn; expected one")
    if shuffle_block(dataset) is not None:
        raise DataError(
            "two orders of training: found shuffle_block of the data set, and samples that are drawn one by one",
            hint="leave out shuffle_block; or sampling under [trainer] and mixtures",
        )
    if table is None:
        return mixture
    if mixture is not None:
        raise DataError(
            f'two ways to draw samples: found sampling = {{ kind = "{table.kind}" }} for a training set that is a '
            "mixture, which draws by the weights of its parts",
            hint='leave out sampling under [trainer], or use kind = "concat" for the data set',
        )
    values = _from_file(table, length_of(dataset)) if table.path else _from_samples(table, dataset, seed)
    return {"weighted": _weighted, "balanced": _balanced, "buckets": _buckets}[table.kind](table, values)


def _weighted(table: SamplingTable, values: Tensor) -> Sampling:
    weights = values.double()
    wrong = (~(weights.isfinite() & (weights >= 0))).nonzero()
    if len(wrong) or not float(weights.sum()) > 0:
        found = f"{weights[wrong[0]].item():g} for sample {int(wrong[0])}" if len(wrong) else "zeros only"
        raise DataError(
            f"wrong weights of samples in {table.by!r}: found {found}, expected finite numbers from 0 on, not all 0"
        )
    return Drawn(weights)


def _balanced(table: SamplingTable, values: Tensor) -> Sampling:
    if values.is_floating_point() and bool((wrong := values != values.round()).any()):
        raise DataError(
            f"wrong classes of samples in {table.by!r}: found {values[wrong][0].item():g}, expected whole numbers, one "
            "for each class",
            hint='for numbers that say how often to draw a sample: kind = "weighted"',
        )
    _, classes, counts = torch.unique(values, return_inverse=True, return_counts=True)
    return Drawn(1 / counts[classes].double(), classes)


def _buckets(table: SamplingTable, values: Tensor) -> Sampling:
    if len(values) > 1 and bool((values == values[0]).all()):
        raise DataError(
            f"nothing to sort into buckets by {table.by!r}: found size {values[0].item():g} for every sample, expected "
            "samples of different sizes",
            hint="name a property with an entry a point, or one that holds the number of points; or leave out sampling",
        )
    return Buckets(values, table.pool)


def _from_file(table: SamplingTable, samples: int) -> Tensor:
    """Return one number a sample from a column of a file."""
    from noether.data.sources.columns import TABLES, read_arrays
    from noether.data.sources.delimited import TableFormat
    from noether.data.sources.tables import read_columns

    path = table.path
    assert path is not None, "the caller looked"
    is_table = path.suffix.lower() in TABLES
    columns = read_columns(path, [table.by], TableFormat())[0] if is_table else read_arrays(path, [table.by])
    values = columns[table.by]
    if len(values) != samples:
        raise DataError(
            f"{path}: wrong number of rows: found {len(values)}, expected {samples}, one for each sample of the "
            "training set"
        )
    return _one_each(table, values)


def _from_samples(table: SamplingTable, dataset: AnyDataset, seed: int) -> Tensor:
    """Return one number of each sample: a property, or its length."""
    present = dataset.properties if isinstance(dataset, InMemoryDataset) else first_sample(dataset, seed=seed)
    if table.by not in present:
        raise DataError(
            f"unknown property in sampling: found {table.by!r}, expected one of {', '.join(present)}."
            f"{did_you_mean(table.by, present)}"
        )
    if isinstance(dataset, InMemoryDataset):
        return _one_each(table, dataset.properties[table.by])
    return torch.cat(list(_numbers(table, dataset, seed)))


def _numbers(table: SamplingTable, dataset: AnyDataset, seed: int) -> Iterator[Tensor]:
    for batch in whole_batches(dataset, seed=seed):
        try:
            yield _one_each(table, torch.as_tensor(batch[table.by]))
        except (TypeError, ValueError) as error:
            raise DataError(f"no numbers in {table.by!r} for sampling: {error}") from error


def _one_each(table: SamplingTable, values: Tensor) -> Tensor:
    """Return one number a sample: the property, or for buckets its length if it holds several entries.

    Raises:
        DataError: if a weight or a class is not a single number, or not a number.
    """
    if table.kind == "buckets" and values.ndim > 1:
        return torch.full((len(values),), values.shape[1])
    if values.numel() != len(values):
        raise DataError(
            f"wrong shape of {table.by!r} for sampling: found {tuple(values.shape[1:])} a sample, expected a single "
            "number"
        )
    numbers = values.reshape(-1)
    if numbers.is_floating_point() and bool((missing := numbers.isnan()).any()):
        at = int(missing.nonzero()[0])
        raise DataError(f"missing numbers in {table.by!r} for sampling: found nan for sample {at}, expected none")
    return numbers
