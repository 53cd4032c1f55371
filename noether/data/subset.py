"""Looking at a part of a data set: its first samples, or some of its properties."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from noether.data.dataset import (
    AnyDataset,
    Batch,
    Dataset,
    GatheringDataset,
    InMemoryDataset,
    gathering,
    length_of,
)
from noether.data.whole import first_sample
from noether.errors import DataError
from noether.kernel.names import did_you_mean


class Subset(Dataset):
    """The first samples of a data set, with some of its properties.

    Args:
        dataset: The whole.
        size: Number of samples.
        names: Properties to keep; None for all.
    """

    def __init__(self, dataset: AnyDataset, size: int, names: tuple[str, ...] | None) -> None:
        super().__init__(getattr(dataset, "config", None))
        self.dataset = dataset
        self.size = size
        self.names = names
        self.deterministic = bool(getattr(dataset, "deterministic", False))

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self._kept(self.dataset[index])

    def _kept(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        return sample if self.names is None else {name: sample[name] for name in self.names}


class BatchSubset(Subset):
    """A subset of a data set that gathers whole batches."""

    def __init__(self, dataset: AnyDataset, whole: GatheringDataset, size: int, names: tuple[str, ...] | None) -> None:
        super().__init__(dataset, size, names)
        self.whole = whole

    def __getitems__(self, indices: list[int] | Tensor) -> Batch:
        """Return the batch of the samples at `indices`."""
        return self._kept(self.whole.__getitems__(indices))


def subset(
    dataset: AnyDataset, *, properties: Collection[str] | None = None, max_size: int | None = None
) -> AnyDataset:
    """Return the first `max_size` samples of `dataset` with `properties` only; None keeps everything.

    Raises:
        DataError: The data set lacks a property.
    """
    size = length_of(dataset) if max_size is None else min(max_size, length_of(dataset))
    names = None if properties is None else _known(dataset, properties)
    if names is None and size == length_of(dataset):
        return dataset
    if isinstance(dataset, InMemoryDataset):
        kept = {name: dataset.properties[name][:size] for name in names or dataset.properties}
        return InMemoryDataset(kept, dataset.config)
    if (whole := gathering(dataset)) is not None:
        return BatchSubset(dataset, whole, size, names)
    return Subset(dataset, size, names)


def _known(dataset: AnyDataset, properties: Collection[str]) -> tuple[str, ...]:
    """Return the properties in the order of the data set, so that a set of names gives one order."""
    present = dataset.properties if isinstance(dataset, InMemoryDataset) else first_sample(dataset)
    for name in properties:
        if name not in present:
            guess = did_you_mean(name, present)
            raise DataError(f"the data set has no property {name!r}, only {', '.join(present)}.{guess}")
    return tuple(name for name in present if name in properties)
