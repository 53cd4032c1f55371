"""Views of data sets: subsets, transforms, and transforms fitted on the training set."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from noether.data.collators import lacking, stack
from noether.data.dataset import (
    AnyDataset,
    Batch,
    GatheringDataset,
    InMemoryDataset,
    StoredDataset,
    View,
    called,
    exact_ones,
    gathering,
    in_memory,
    length_of,
    require_kept,
    single,
)
from noether.data.fetch import FetchBatch, FetchSamples, first_sample
from noether.data.transforms import Transform
from noether.errors import DataError
from noether.kernel.names import TARGET, did_you_mean


class Subset(View):
    """The first samples of a data set, with some of its properties.

    Args:
        dataset: The whole.
        size: Number of samples.
        names: Properties to keep; None for all.
    """

    def __init__(self, dataset: AnyDataset, size: int, names: tuple[str, ...] | None) -> None:
        super().__init__(dataset)
        self.size = size
        self.names = names
        self.deterministic = bool(getattr(dataset, "deterministic", False))

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self._kept(self.dataset[index])

    def _kept(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.names is None:
            return sample
        try:
            return {name: sample[name] for name in self.names}
        except KeyError:
            missing = [name for name in self.names if name not in sample]
            raise DataError(lacking(f"a sample of the data set {called(self.dataset)!r}", sample, missing)) from None


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
        DataError: if the data set lacks a property.
    """
    size = length_of(dataset) if max_size is None else min(max_size, length_of(dataset))
    names = None if properties is None else _known(dataset, properties)
    if names is None and size == length_of(dataset):
        return dataset
    if (memory := in_memory(dataset)) is not None:
        kept = {name: memory.properties[name][:size] for name in names or memory.properties}
        return InMemoryDataset(kept, memory.config)
    if (whole := gathering(dataset)) is not None:
        return BatchSubset(dataset, whole, size, names)
    return Subset(dataset, size, names)


def _known(dataset: AnyDataset, properties: Collection[str]) -> tuple[str, ...]:
    """Return the properties in the order of the data set, so that a set of names gives one order."""
    memory = in_memory(dataset)
    present = first_sample(dataset) if memory is None else memory.properties
    for name in properties:
        if name not in present:
            raise DataError(
                f"unknown property of the data set {called(dataset)!r}: found {name!r}, expected one of "
                f"{', '.join(present)}.{did_you_mean(name, present)}"
            )
    return tuple(name for name in present if name in properties)


class TransformedDataset(View):
    """Applies transforms to each sample, one after the other.

    Args:
        dataset: The data set.
        transforms: The transforms, in order.
    """

    def __init__(self, dataset: AnyDataset, transforms: Sequence[Transform]) -> None:
        super().__init__(dataset)
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


def apply(transforms: Sequence[Callable[[Batch], Batch]], sample: Batch) -> Batch:
    """Return the sample, or batch, after all transforms."""
    for transform in transforms:
        sample = transform(sample)
    return sample


def transformed(dataset: AnyDataset, transforms: Sequence[Transform]) -> AnyDataset:
    """Return `dataset` seen through `transforms`, in the fastest way that gives the same samples.

    Deterministic batched transforms of a data set in memory are applied once, here; the rest on the way to
    the batch.
    """
    if (memory := in_memory(dataset)) is not None and (once := _leading_batched(transforms)):
        for transform in transforms[:once]:
            memory = _transformed_once(memory, transform)
        dataset, transforms = memory, transforms[once:]
    if not transforms:
        return dataset
    if isinstance(dataset, StoredDataset) and dataset.holds_doubles and (exact := _leading_exact(transforms)):
        dataset, transforms = dataset.in_full(), (*transforms[:exact], Rounding(), *transforms[exact:])
    dataset = require_kept(dataset) if isinstance(dataset, InMemoryDataset) else dataset
    whole = gathering(dataset)
    if whole is not None and _leading_batched(transforms) == len(transforms):
        return BatchTransformedDataset(dataset, whole, transforms)
    return TransformedDataset(dataset, transforms)


class Rounding(Transform):
    """Rounds float64 to float32: the place in the transforms of a data set on disk at which its numbers are rounded."""

    deterministic = True
    batched = True
    keeps_properties = True

    def __call__(self, sample: Batch) -> Batch:
        """Return the sample, or batch, without float64."""
        return {name: single(value) if isinstance(value, Tensor) else value for name, value in sample.items()}


def _leading_exact(transforms: Sequence[Transform]) -> int:
    """Return the number of leading transforms that may be given whole batches of float64."""
    for place, transform in enumerate(transforms[: _leading_batched(transforms)]):
        if not transform.takes_exact:
            return place
    return _leading_batched(transforms)


def _in_full(dataset: AnyDataset) -> AnyDataset:
    """Return a data set as a transform that takes exact numbers learns from it."""
    if isinstance(dataset, InMemoryDataset | StoredDataset):
        return dataset.in_full()
    if isinstance(dataset, BatchTransformedDataset) and isinstance(dataset.transforms[-1], Rounding):
        return BatchTransformedDataset(dataset.dataset, dataset.whole, dataset.transforms[:-1])
    return dataset


def _transformed_once(dataset: InMemoryDataset, transform: Transform) -> InMemoryDataset:
    """Apply a transform to all samples, to the exact numbers of a file if it takes them."""
    if not (dataset.exact and transform.takes_exact):
        return InMemoryDataset(transform(dict(require_kept(dataset).properties)), dataset.config)
    result = transform(dataset.properties | dataset.exact)
    exact = {name: result[name] for name in dataset.exact if name in result}
    made = InMemoryDataset(result | {name: single(values) for name, values in exact.items()}, dataset.config)
    made.exact = exact_ones(exact, made.properties)
    return made


def _leading_batched(transforms: Sequence[Transform]) -> int:
    """Return the number of leading transforms that may be applied to whole batches."""
    for place, transform in enumerate(transforms):
        if not (transform.batched and transform.deterministic):
            return place
    return len(transforms)


def _require_agreement(prepared: AnyDataset, dataset: AnyDataset, transforms: Sequence[Transform]) -> None:
    """Check on two samples that batches that are gathered hold the samples that are loaded one by one.

    Raises:
        DataError: if they do not: `__getitems__` returns others, or a transform does not treat each sample for itself.
    """
    whole = gathering(prepared)
    is_deterministic = getattr(prepared, "deterministic", False)  # others are loaded sample by sample
    if whole is None or not is_deterministic or prepared is in_memory(dataset) or not length_of(dataset):
        return
    indices = torch.tensor([length_of(dataset) - 1, 0])
    gathered = FetchBatch(whole)(indices, 0)
    try:
        alone = FetchSamples(TransformedDataset(dataset, transforms), stack)(indices, 0)
    except (DataError, NotImplementedError):
        return  # samples that only a batch of its own can hold, or that are there in batches alone
    for name in dict.fromkeys([*gathered, *alone]):
        if name not in gathered or name not in alone or _differ(gathered[name], alone[name]):
            raise DataError(
                f"batches of the data set {called(prepared)!r} differ from its samples: found other values of {name!r} "
                "in the batch of the last and the first sample than in these samples alone",
                hint="correct __getitems__, or set batched = False in a transform that computes over samples or "
                "changes its argument in place",
            )


_ROUNDING = {torch.float64: 1e-7, torch.float32: 1.3e-6, torch.float16: 1e-3, torch.bfloat16: 1.6e-2}


def _differ(one: Any, other: Any) -> bool:
    """Return True if two properties differ by more than rounding; importing `torch.testing` takes a second."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) != len(other) or any(map(_differ, one, other))
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return bool(one != other)
    if one.shape != other.shape or one.layout != other.layout:
        return True
    kinds = [tensor.dtype.to_real() if tensor.dtype.is_complex else tensor.dtype for tensor in (one, other)]
    rounding = max(_ROUNDING.get(kind, 0.0) for kind in kinds)
    wide = torch.promote_types(one.dtype, other.dtype)
    left, right = ((x if x.layout is torch.strided else x.to_dense()).to(wide) for x in (one, other))
    return not torch.allclose(left, right, rtol=rounding, atol=min(rounding, 1e-5), equal_nan=True)


_SPREAD = 4096
"""Samples of a file on disk in which columns are looked for that rounding to float32 destroys."""


class PreparedDatasets:
    """The data sets of a run after their transforms: each one's own, then the shared ones.

    A data set's own transforms make it look like the others (units, augmentation); the shared ones then prepare all
    of them for the model. Transforms are fitted on the training set alone, after the transforms before them.

    Args:
        datasets: The data sets as they are, by key.
        shared: Transforms of every data set.
        own: Transforms of one data set, by its key.
    """

    def __init__(
        self,
        datasets: Mapping[str, AnyDataset],
        shared: Sequence[Transform] = (),
        own: Mapping[str, Sequence[Transform]] | None = None,
    ) -> None:
        self.datasets = dict(datasets)
        self.shared = tuple(shared)
        self.own = {key: tuple(transforms) for key, transforms in (own or {}).items()}
        self._prepared: dict[str, AnyDataset] = {}

    def get(self, key: str) -> AnyDataset:
        """Return the data set `key` after its transforms; fits them if needed."""
        if key not in self._prepared:
            self._fit(self.own.get("train", ()) + self.shared)
            self._fit(self.own.get(key, ()))
            transforms = self.own.get(key, ()) + self.shared
            whole = transformed(self.datasets[key], transforms)
            self._prepared[key] = require_kept(whole) if isinstance(whole, InMemoryDataset) else whole
            prepared, source = self._prepared[key], self.datasets[key]
            if isinstance(source, StoredDataset) and source.holds_doubles and length_of(source):
                spread = transformed(source.spread(_SPREAD), transforms)  # all of the file would take too long
                if isinstance(spread, InMemoryDataset):
                    require_kept(spread)
                source = source.in_full()
            if isinstance(source, InMemoryDataset) and source.exact:  # float64 and float32 may differ
                source = InMemoryDataset({name: values[[-1, 0]] for name, values in source.properties.items()})
                prepared = transformed(source, transforms)
            _require_agreement(prepared, source, transforms)
        return self._prepared[key]

    def _fit(self, transforms: tuple[Transform, ...]) -> None:
        for place, transform in enumerate(transforms):
            if transform.fitted:
                continue
            if "train" not in self.datasets:
                kind = transform.config.kind if transform.config else ""
                raise DataError(
                    f"the transform {kind or type(transform).__name__!r} cannot be fitted: found data sets "
                    f"{', '.join(self.datasets)}, expected train",
                    hint="add [datasets.train], or load the state of a run that had one",
                )
            samples = transformed(self.datasets["train"], transforms[:place])
            transform.fit(_in_full(samples) if transform.takes_exact else samples)

    def transforms(self, key: str) -> tuple[Transform, ...]:
        """Return the transforms of the data set `key`, in their order."""
        return self.own.get(key, ()) + self.shared

    def inverse(self, name: str, tensor: Tensor, key: str) -> Tensor:
        """Return a batch of the property `name` in the units of the data set `key`."""
        transforms = self.transforms(key)
        if any(transform.inverts(name) for transform in transforms):
            self._fit(transforms)
        for transform in reversed(transforms):
            tensor = transform.inverse(name, tensor)
        return tensor

    def raw_properties(self, key: str, seed: int) -> dict[str, dict[str, Any]]:
        """Return shape and type of each tensor in the first sample of the data set `key` before its transforms.

        Empty if the default collator cannot make a batch of that sample.
        """
        try:
            sample = first_sample(self.datasets[key], seed=seed)
        except DataError:
            return {}
        return {
            name: {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
            for name, value in sample.items()
            if isinstance(value, Tensor)
        }

    def property_of(self, name: str, present: Collection[str]) -> str:
        """Return the property of the field `name`, or the property of this name.

        Args:
            name: The field, `pressure`, or a property.
            present: The properties of a sample.

        Raises:
            DataError: if there is none, or both are there and a transform changes one of them.
        """
        target = f"{name}{TARGET}"
        if target not in present:
            if name not in present:
                raise DataError(
                    f"unknown field or property: found {name!r}, expected one of "
                    f"{', '.join(present)}.{did_you_mean(name, present)}"
                )
            return name
        if name in present and any(t.inverts(name) or t.inverts(target) for t in self.transforms("train")):
            raise DataError(
                f"ambiguous name: found {name!r}, expected {target!r}, since {name!r} is a property of its own",
                hint=f'write "{target}" for predictions and targets; data_container.inverse("{name}", …) is for inputs',
            )
        return target

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state of all transforms, as one flat dict."""
        named = self._named().items()
        return {f"{prefix}/{name}": value for prefix, t in named for name, value in t.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the state of the transforms of another run; data sets are transformed anew.

        Raises:
            DataError: if the state does not fit the transforms.
        """
        for prefix, transform in self._named().items():
            start = f"{prefix}/"
            part = {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
            if part or transform.state_dict() or not transform.fitted:
                transform.load_state_dict(part)
        self._prepared.clear()

    def _named(self) -> dict[str, Transform]:
        named = {f"transforms/{place}": transform for place, transform in enumerate(self.shared)}
        for key, transforms in self.own.items():
            named |= {f"datasets/{key}/transforms/{place}": t for place, t in enumerate(transforms)}
        return named
