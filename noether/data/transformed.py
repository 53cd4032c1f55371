"""Data sets seen through transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
from noether.data.transforms.base import Transform


class TransformedDataset(Dataset):
    """Applies transforms to each sample, one after the other.

    Args:
        dataset: Where samples come from.
        transforms: What is applied, in order.
    """

    def __init__(self, dataset: AnyDataset, transforms: Sequence[Transform]) -> None:
        super().__init__(getattr(dataset, "config", None))
        self.dataset = dataset
        self.transforms = tuple(transforms)
        self.deterministic = bool(getattr(dataset, "deterministic", False)) and all(
            transform.deterministic for transform in transforms
        )

    def __len__(self) -> int:
        return length_of(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return apply(self.transforms, self.dataset[index])


class BatchTransformedDataset(TransformedDataset):
    """Applies transforms to whole batches of a data set that gathers them at once."""

    def __init__(self, dataset: AnyDataset, whole: GatheringDataset, transforms: Sequence[Transform]) -> None:
        super().__init__(dataset, transforms)
        self.whole = whole

    def __getitems__(self, indices: list[int] | Tensor) -> Batch:
        """Return the transformed batch of the samples at `indices`."""
        return apply(self.transforms, self.whole.__getitems__(indices))


def apply(transforms: Sequence[Transform], sample: dict[str, Any]) -> dict[str, Any]:
    """Return the sample, or batch, after all transforms."""
    for transform in transforms:
        sample = transform(sample)
    return sample


def transformed(dataset: AnyDataset, transforms: Sequence[Transform]) -> AnyDataset:
    """Return `dataset` seen through `transforms`, in the fastest way that gives the same samples.

    Deterministic batched transforms of a data set in memory are applied once, here; the rest on the way to
    the batch.
    """
    if isinstance(dataset, InMemoryDataset) and (once := _leading_batched(transforms)):
        dataset = InMemoryDataset(apply(transforms[:once], dict(dataset.properties)), dataset.config)
        transforms = transforms[once:]
    if not transforms:
        return dataset
    whole = gathering(dataset)
    if whole is not None and _leading_batched(transforms) == len(transforms):
        return BatchTransformedDataset(dataset, whole, transforms)
    return TransformedDataset(dataset, transforms)


def _leading_batched(transforms: Sequence[Transform]) -> int:
    """Return how many transforms from the first on may be applied to whole batches."""
    for place, transform in enumerate(transforms):
        if not (transform.batched and transform.deterministic):
            return place
    return len(transforms)
