"""Raw samples: the properties of a run's data before its transforms, recorded when the run begins."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noether.checkpoint.paths import PathProvider
from noether.checkpoint.untrusted import parse_json
from noether.data.dataset import Batch, Dataset
from noether.errors import DataError
from noether.runs.folder.run_folder import RUN, SAMPLES

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
        return read_properties(parse_json((paths.run_path / RUN).read_bytes())[SAMPLES])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
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
        return through(self.transforms, known | {name: value.clone() for name, value in self.placeholders.items()})


class PreparedBatches(PreparedSamples):
    """The same for transforms that take whole batches."""

    def __getitems__(self, indices: list[int] | Tensor) -> Batch:
        """Return the batch of the samples at `indices`."""
        known = {name: tensor[indices] for name, tensor in self.tensors.items()}
        others = {name: value.expand(len(indices), *value.shape) for name, value in self.placeholders.items()}
        return through(self.transforms, known | {name: value.clone() for name, value in others.items()})


def through(transforms: Sequence[Callable[[Batch], Batch]], sample: Batch) -> Batch:
    """Return a sample, or a batch, after all transforms."""
    for transform in transforms:
        sample = transform(sample)
    return sample


def as_batch(
    given: Mapping[str, Any], properties: RawProperties, *, of_any_size: bool = False
) -> tuple[dict[str, Tensor], bool]:
    """Return the given properties as a batch in the types of training; names that are no properties are left out.

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
