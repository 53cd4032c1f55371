"""Loading a batch from one data set: in one gather, sample by sample, or sample by sample with seeds."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from noether.data.collate import Collator, collate
from noether.data.dataset import AnyDataset, Batch, GatheringDataset, gathering
from noether.data.mixing import mix
from noether.data.randomness import epoch_key, preserved_rng, seed_sample


class Fetch(Protocol):
    """Loads batches of one data set."""

    def __call__(self, indices: Tensor, epoch: int) -> Batch:
        """Return the samples at `indices` (int64, shape (batch,)) as they are in epoch `epoch`."""
        ...


class FetchBatch:
    """Asks a deterministic data set for the whole batch at once."""

    def __init__(self, dataset: GatheringDataset) -> None:
        self.dataset = dataset

    def __call__(self, indices: Tensor, epoch: int) -> Batch:
        """Return the samples at `indices` as they are in epoch `epoch`."""
        try:
            return self.dataset.__getitems__(indices)
        except Exception as error:
            error.add_note(f"while loading samples {_shown(indices)} of {type(self.dataset).__name__}")
            raise


class FetchSamples:
    """Asks a deterministic data set for one sample after the other."""

    def __init__(self, dataset: AnyDataset, collator: Collator) -> None:
        self.dataset = dataset
        self.collator = collator

    def __call__(self, indices: Tensor, epoch: int) -> Batch:
        """Return the samples at `indices` as they are in epoch `epoch`."""
        return self.collator(_samples(self.dataset, indices.tolist()))


class FetchSeededSamples:
    """Asks for one sample after the other, each with randomness of its own."""

    def __init__(self, dataset: AnyDataset, collator: Collator, seed: int) -> None:
        self.dataset = dataset
        self.collator = collator
        self.seed = seed

    def __call__(self, indices: Tensor, epoch: int) -> Batch:
        """Return the samples at `indices` as they are in epoch `epoch`."""
        key = epoch_key(self.seed, epoch)
        with preserved_rng():
            return self.collator(_samples(self.dataset, indices.tolist(), key))


def _shown(indices: Tensor, most: int = 8) -> str:
    return ", ".join(map(str, indices[:most].tolist())) + (", …" if len(indices) > most else "")


def _samples(dataset: AnyDataset, indices: list[int], key: int | None = None) -> list[Any]:
    """Load samples in order; with a key, each after seeding the generators from (key, index)."""
    samples, index = [], -1
    try:
        for index in indices:
            if key is not None:
                seed_sample(mix(key, index))
            samples.append(dataset[index])
    except Exception as error:
        error.add_note(f"while loading sample {index} of {type(dataset).__name__}")
        raise
    return samples


def fetch_of(dataset: AnyDataset, seed: int, collator: Collator | None = None) -> Fetch:
    """Return the fastest way to load batches of `dataset` that keeps its samples reproducible.

    Args:
        dataset: Where samples come from.
        seed: Seed of the run.
        collator: Makes batches out of samples; None for the default, which a data set that gathers needs not.
    """
    if not getattr(dataset, "deterministic", False):
        return FetchSeededSamples(dataset, collator or collate, seed)
    if collator is None and (whole := gathering(dataset)) is not None:
        return FetchBatch(whole)
    return FetchSamples(dataset, collator or collate)
