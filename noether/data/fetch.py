"""Fetch and collate batches of one data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from noether.data.dataset import AnyDataset, Batch, GatheringDataset, gathering, length_of
from noether.data.randomness import EVALUATION_EPOCH, epoch_key, mix, preserved_rng, seed_sample
from noether.errors import DataError

Collator = Callable[[Sequence[Mapping[str, Any]]], Batch]
"""Function that makes one batch of samples."""


def collate(samples: Sequence[Mapping[str, Any]]) -> Batch:
    """Stack samples along a new leading dimension, property by property.

    Numbers and numpy arrays become tensors.

    Raises:
        DataError: if a sample is not a mapping, lacks a property of the first one, or a property cannot be stacked.
    """
    for sample in samples:
        if not isinstance(sample, Mapping):
            raise DataError(
                f"wrong type of a sample: found {type(sample).__name__}, expected a dict from property name to tensor",
                hint="return {'x': ..., 'y': ...} from the data set's __getitem__",
            )
    return {name: _stack(name, samples) for name in samples[0]}


def _stack(name: str, samples: Sequence[Mapping[str, Any]]) -> Tensor:
    try:
        return torch.stack([_tensor(sample[name]) for sample in samples])
    except KeyError:
        lacking = next(sample for sample in samples if name not in sample)
        raise DataError(
            f"missing property in a sample: found {', '.join(lacking)}, expected {name!r} as in the others of its batch"
        ) from None
    except (RuntimeError, TypeError, ValueError) as error:
        raise _not_stackable(name, [sample[name] for sample in samples], error) from error


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.as_tensor(value)


def _not_stackable(name: str, values: list[Any], error: Exception) -> DataError:
    shapes = {tuple(value.shape) for value in values if hasattr(value, "shape")}
    if len(shapes) > 1:
        found = ", ".join(str(shape) for shape in sorted(shapes))
        return DataError(
            f"different shapes of property {name!r} in one batch: found {found}, expected one shape",
            hint="pad it in a transform, or give the data set a collator",
        )
    return DataError(
        f"property {name!r} cannot be converted: found {type(values[0]).__name__}, expected a tensor, an array or a "
        f"number: {error}"
    )


class Fetch(Protocol):
    """Loads batches of one data set."""

    def __call__(self, indices: Tensor, epoch: int) -> Batch:
        """Return the samples at `indices` (int64, shape (batch,)) as they are in epoch `epoch`."""
        ...


class FetchBatch:
    """Fetch whole batches of a deterministic data set."""

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
    """Fetch a deterministic data set sample by sample."""

    def __init__(self, dataset: AnyDataset, collator: Collator) -> None:
        self.dataset = dataset
        self.collator = collator

    def __call__(self, indices: Tensor, epoch: int) -> Batch:
        """Return the samples at `indices` as they are in epoch `epoch`."""
        return self.collator(_samples(self.dataset, indices.tolist()))


class FetchSeededSamples:
    """Fetch sample by sample, each with its own random seed."""

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
        dataset: The data set.
        seed: Seed of the run.
        collator: Makes batches of samples; None for the default, which is not needed if the data set gathers batches.
    """
    if not getattr(dataset, "deterministic", False):
        return FetchSeededSamples(dataset, collator or collate, seed)
    if collator is None and (whole := gathering(dataset)) is not None:
        return FetchBatch(whole)
    return FetchSamples(dataset, collator or collate)


def whole_batches(dataset: AnyDataset, *, batch_size: int = 1024, seed: int = 0) -> Iterator[Batch]:
    """Yield every sample once, in order, in batches; random samples are the same at every call.

    A data set that gathers no batches is read one sample at a time, so that the samples may differ in shape.
    """
    fetch = fetch_of(dataset, seed)
    batch_size = batch_size if gathering(dataset) is not None else 1
    for indices in torch.split(torch.arange(length_of(dataset)), batch_size):
        if len(indices):
            yield fetch(indices, EVALUATION_EPOCH)


def first_sample(dataset: AnyDataset, *, seed: int = 0) -> dict[str, Tensor]:
    """Return the first sample, to read names and shapes from; does not draw from the generators of the process.

    Raises:
        DataError: if the data set is empty.
    """
    for batch in whole_batches(dataset, batch_size=1, seed=seed):
        return {name: values[0] for name, values in batch.items()}
    raise DataError(f"the data set {type(dataset).__name__} is empty: found 0 samples, expected at least 1")
