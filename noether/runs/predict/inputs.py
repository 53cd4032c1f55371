"""Inputs of a trained model: raw samples through the fitted transforms of a run, with or without labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noether.checkpoint.paths import PathProvider
from noether.checkpoint.saved import SavedCheckpoint
from noether.config.components import DatasetBaseConfig
from noether.data.build import build_data
from noether.data.collators import lacking, properties_of
from noether.data.container import DataContainer
from noether.data.dataset import Batch, Dataset
from noether.data.fetch import Fetch, fetch_of
from noether.data.randomness import EVALUATION_EPOCH, preserved_rng, seed_sample
from noether.data.transforms import Transform
from noether.data.views import apply
from noether.errors import DataError, SpecError, error_text
from noether.kernel.names import did_you_mean
from noether.runs.folder.run_folder import SAMPLES, read_run
from noether.runs.prepare import Preparation

_LARGEST = 1 << 28  # entries of a property; a record that says more is not believed


@dataclass(frozen=True, slots=True)
class RawProperty:
    """A property of a sample before its transforms.

    Attributes:
        shape: Its shape, without a batch dimension.
        dtype: Its type.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    def cast(self, tensor: Tensor) -> Tensor:
        """Return values in the type of training.

        Where it had float32, wider numbers stay as they are for transforms that come before rounding; where it had
        whole numbers only, fractions stay fractions.
        """
        values = tensor.to(self.dtype)
        if self.dtype == torch.float32:
            wide = tensor.to(torch.float64)
            return values if torch.equal(values.to(torch.float64), wide) else wide
        if self.dtype.is_floating_point or self.dtype.is_complex or torch.equal(values.to(tensor.dtype), tensor):
            return values
        return tensor.to(torch.float32) if tensor.is_floating_point() else tensor


RawProperties = Mapping[str, RawProperty]


def recorded_properties(paths: PathProvider) -> dict[str, RawProperty]:
    """Return the properties that `run.json` records; none if there are none, or they cannot be read."""
    try:
        return read_properties(read_run(paths.run_path)[SAMPLES])
    except (KeyError, TypeError, AttributeError):
        return {}


def read_properties(record: Any) -> dict[str, RawProperty]:
    """Return the properties of a record that `DataContainer.raw_properties` made; none if they are not plausible."""
    found = {name: RawProperty(tuple(raw["shape"]), getattr(torch, raw["dtype"])) for name, raw in record.items()}
    return found if all(map(_is_plausible, found.values())) else {}


def _is_plausible(raw: RawProperty) -> bool:
    sizes = all(isinstance(size, int) and size >= 0 for size in raw.shape)
    return sizes and math.prod(raw.shape) <= _LARGEST and isinstance(raw.dtype, torch.dtype)


class PreparedSamples(Dataset):
    """Samples from tensors after transforms, with the same placeholders in each for properties that are not known.

    Args:
        tensors: Known properties, of shape (samples, ...).
        placeholders: Values of the others, for one sample.
        size: Number of samples.
        transforms: The transforms.
    """

    def __init__(
        self, tensors: Batch, placeholders: Batch, size: int, transforms: Sequence[Callable[[Batch], Batch]]
    ) -> None:
        super().__init__()
        self.tensors = tensors
        self.placeholders = placeholders
        self.size = size
        self.transforms = transforms

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        known = {name: tensor[index] for name, tensor in self.tensors.items()}
        return apply(self.transforms, known | {name: value.clone() for name, value in self.placeholders.items()})


class PreparedBatches(PreparedSamples):
    """The same for transforms that take whole batches."""

    def __getitems__(self, indices: list[int] | Tensor) -> Batch:
        """Return the batch of the samples at `indices`."""
        known = {name: tensor[indices] for name, tensor in self.tensors.items()}
        others = {name: value.expand(len(indices), *value.shape) for name, value in self.placeholders.items()}
        return apply(self.transforms, known | {name: value.clone() for name, value in others.items()})


def as_batch(
    given: Mapping[str, Any], properties: RawProperties, *, of_any_size: bool = False
) -> tuple[dict[str, Tensor], bool]:
    """Return the given properties as a batch in the types of training; names that are not properties are left out.

    Args:
        given: Tensors, arrays, or numbers by name: one sample, or a batch.
        properties: The properties of training.
        of_any_size: Take samples with one point, or any number where that of training had one.

    Returns:
        The batch, and True if one sample was given.

    Raises:
        DataError: if a value is not numeric, has another shape than in training, or the numbers of samples differ.
    """
    tensors = {name: _tensor(name, given[name]) for name in properties if name in given}
    for name, tensor in tensors.items():
        if tensor.is_complex() and not properties[name].dtype.is_complex:
            raise DataError(f"wrong type of {name!r}: found {tensor.dtype}, expected {properties[name].dtype}")
        _require_shape(name, tuple(tensor.shape), properties[name].shape, of_any_size)
    single = {name for name, tensor in tensors.items() if tensor.ndim == len(properties[name].shape)}
    if single and len(single) < len(tensors):
        whole = ", ".join(sorted(tensors.keys() - single))
        raise DataError(
            f"one sample and batches together: found one of {', '.join(sorted(single))}, a batch of {whole}"
        )
    batch = {name: properties[name].cast(tensor.unsqueeze(0) if single else tensor) for name, tensor in tensors.items()}
    if len({len(tensor) for tensor in batch.values()}) > 1:
        found = ", ".join(f"{name}: {len(tensor)}" for name, tensor in batch.items())
        raise DataError(f"different numbers of samples: found {found}, expected the same for each property")
    return batch, bool(single)


def _tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(
            f"{name!r} is not one array: found {type(value).__name__}: {error}",
            hint="predict samples of different sizes one at a time",
        ) from error
    if array.dtype.kind not in "biufc" or (array.dtype == np.uint64 and (array >= 1 << 63).any()):
        raise DataError(f"wrong type of {name!r}: found {array.dtype}, expected a tensor, an array or numbers")
    native = array.astype(array.dtype.newbyteorder("="))  # a copy: the caller's array stays as it is
    return torch.from_numpy(native if native.dtype.kind != "u" else native.astype(np.int64))


def _require_shape(name: str, found: tuple[int, ...], wanted: tuple[int, ...], of_any_size: bool) -> None:
    """Refuse another number of dimensions, and sizes that would be broadcast; a model may take other sizes."""
    sizes = found[len(found) - len(wanted) :]
    fits = len(found) - len(wanted) in (0, 1) and all(
        one == other or 1 not in (one, other) or (of_any_size and not dim)
        for dim, (one, other) in enumerate(zip(sizes, wanted, strict=True))
    )
    if not fits:
        batch = ", ".join(["batch", *map(str, wanted)])
        raise DataError(
            f"wrong shape of {name!r}: found {found}, expected ({batch}) as in training, or {wanted} for one sample",
            hint="put samples along the first dimension",
        )


_TRAIN = "train"
_OTHER_NUMBERS = (3, 0, -1, 0.5, 30, 1e3, 1e6)
"""Values beside a placeholder that tell if a property decides others; a transform may do so beyond a threshold only."""
_OTHER_CLASSES = (*range(1, 10), 100, -1)


class Inputs:
    """Prepare raw samples as the data set of a run is prepared.

    A property that is not given has a placeholder, so that transforms find the properties that they know.

    Args:
        data: The fitted transforms of the run.
        configs: The data sets of the run by key.
        properties: Properties of a sample before its transforms.
        like: Key of the data set that the samples are like, with its own transforms; None for the first one that the
            run does not train on.

    Raises:
        SpecError: if the run has no such data set.
    """

    def __init__(
        self,
        data: DataContainer,
        configs: Mapping[str, DatasetBaseConfig],
        properties: RawProperties,
        like: str | None = None,
    ) -> None:
        if like is not None and like not in configs:
            raise SpecError(
                f"unknown data set: found {like!r}, expected one of {', '.join(configs)}.{did_you_mean(like, configs)}"
            )
        self.data = data
        self.properties = properties
        self.key = like or next((key for key in configs if key != _TRAIN), _TRAIN)
        self.config = configs[self.key]
        self.placeholders = {name: self._placeholder(name) for name in properties}

    @classmethod
    def of(cls, prepared: Preparation, paths: PathProvider, saved: SavedCheckpoint, like: str | None) -> Inputs:
        """Return the inputs of a run with the transforms of a checkpoint.

        The run folder records the properties of a sample; otherwise they are read from the training data.
        """
        spec = prepared.loaded.spec
        data = prepared.fitted_transforms(saved.data())
        properties = recorded_properties(paths)
        if not properties:
            properties = read_properties(build_data(spec.datasets, seed=spec.seed).raw_properties())
        return cls(data, spec.datasets, properties, like)

    def fetch(self, tensors: Batch, size: int, placeholders: Batch | None = None) -> Fetch:
        """Return how batches of raw samples are prepared.

        Args:
            tensors: The known properties, of shape (samples, ...).
            size: Number of samples.
            placeholders: Values of the others, for one sample; None for the usual ones.
        """
        values = self.placeholders if placeholders is None else placeholders
        others = self._sized({name: value for name, value in values.items() if name not in tensors}, tensors)
        transforms = self.data.transforms(self.key)
        kind = PreparedBatches if all(t.batched and t.deterministic for t in transforms) else PreparedSamples
        samples = kind(tensors, others, size, self.steps())
        samples.deterministic = all(transform.deterministic for transform in transforms)
        return fetch_of(samples, self.data.seed, self.data.collators.get(self.key))

    def _sized(self, placeholders: Batch, tensors: Batch) -> Batch:
        """Return placeholders with as many points as the known properties have, where samples differ in size."""
        known = {name: raw.shape[0] for name, raw in self.properties.items() if name in tensors and raw.shape}
        sizes = {size: tensors[name].shape[1] for name, size in known.items()}
        return {
            name: value[:1].expand(sizes.get(len(value), len(value)), *value.shape[1:])
            if value.ndim and len(value)
            else value
            for name, value in placeholders.items()
        }

    def steps(self) -> list[Callable[[Batch], Batch]]:
        """Return the transforms, with rounding to float32 as in training: before those that need it, and last."""
        transforms = self.data.transforms(self.key)
        return [*(t if t.takes_exact else self._rounding(t) for t in transforms), self.rounded]

    def _rounding(self, transform: Transform) -> Callable[[Batch], Batch]:
        return lambda sample: transform(self.rounded(sample))

    def rounded(self, sample: Batch) -> Batch:
        """Return a sample, or a batch, with the numbers in float32 that had this type in training."""
        wide = [
            name
            for name, raw in self.properties.items()
            if raw.dtype == torch.float32 and name in sample and sample[name].dtype == torch.float64
        ]
        return sample | {name: sample[name].to(torch.float32) for name in wide}

    def needed_for(self, names: Sequence[str]) -> list[str]:
        """Return the raw properties that decide these prepared ones: each of theirs, and those that change them.

        Raises:
            DataError: if a sample has no such property, or the transforms cannot be applied without labels.
        """
        try:
            first = self._prepared_placeholders({})
        except Exception as error:
            raise DataError(
                f"the transforms do not work on samples without labels: {error_text(error)}",
                hint="let a transform pass over properties whose values it cannot take",
            ) from error
        if missing := [name for name in names if name not in first]:
            raise DataError(lacking("a prepared sample", first, missing))
        return [name for name in self.properties if name in names or self._changes(name, names, first)]

    def _changes(self, name: str, names: Sequence[str], first: Mapping[str, Any]) -> bool:
        """Return True if one of several values of a property gives other prepared ones."""
        for value in _OTHER_CLASSES if self._is_class(name) else _OTHER_NUMBERS:
            try:
                other = self._prepared_placeholders({name: self._placeholder(name, value)})
            except Exception:  # a value that the transforms cannot take says nothing
                continue
            if any(prepared not in other or not is_same(first[prepared], other[prepared]) for prepared in names):
                return True
        return False

    def _prepared_placeholders(self, changed: Batch) -> Mapping[str, Any]:
        with np.errstate(all="ignore"):  # about values that no sample has
            return properties_of(self.fetch({}, 1, self.placeholders | changed)(torch.arange(1), EVALUATION_EPOCH))

    def _placeholder(self, name: str, value: float | None = None) -> Tensor:
        """Return a value, by default 2, which logarithms and powers change; labels of classes begin with 0."""
        raw = self.properties[name]
        if value is None:
            value = 0 if self._is_class(name) else 2
        return torch.full(raw.shape, value, dtype=torch.float64).to(raw.dtype)

    def _is_class(self, name: str) -> bool:
        dtype = self.properties[name].dtype
        return not (dtype.is_floating_point or dtype.is_complex)

    def require_inverses(self, targets: Collection[str]) -> list[str]:
        """Check that predictions can be given in the units of the data; return the targets that transforms change.

        Raises:
            DataError: if a transform changes a target and has no inverse.
        """
        sample: dict[str, Any] = dict(self.placeholders)
        changed: dict[str, None] = {}
        with preserved_rng():
            seed_sample(self.data.seed)
            for transform in self.data.transforms(self.key):
                try:
                    after = transform(dict(sample))
                except Exception:  # reported where samples are prepared
                    break
                for name in targets:
                    if name in sample and name in after and not is_same(sample[name], after[name]):
                        _require_inverse(transform, name, after[name])
                        changed[name] = None
                sample = after
        return list(changed)


def _require_inverse(transform: Transform, name: str, value: Tensor) -> None:
    if transform.inverts(name) or not is_same(transform.inverse(name, value.unsqueeze(0))[0], value):
        return
    kind = getattr(transform.config, "kind", "") or type(transform).__name__
    raise DataError(
        f"predictions would not be in the units of the data: the transform {kind!r} changes {name!r} and has no "
        "inverse",
        hint=f"define inverse(name, tensor) and inverts(name) in {type(transform).__name__}",
    )


def is_same(one: Any, other: Any) -> bool:
    """Return True if both are tensors with the same type, shape and values."""
    both = isinstance(one, Tensor) and isinstance(other, Tensor)
    return both and one.dtype == other.dtype and torch.equal(one, other)
