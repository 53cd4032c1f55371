"""Data sets: the base class, bases of those in memory and of those on disk, and rounding to float32."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol, Self, cast

import torch
from torch import Tensor

from noether.config.components import DatasetBaseConfig
from noether.errors import DataError, error_text

Batch = dict[str, Any]
"""Properties by name: tensors, most with a leading batch dimension, and lists of texts and other values."""

AnyDataset = torch.utils.data.Dataset[Any]
"""Any map-style data set; a sample is a mapping from property name to tensor."""


class Dataset(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Base of map-style data sets: `__len__` and `__getitem__(i) -> dict[str, Tensor]`.

    A data set that can gather a whole batch at once also defines
    `__getitems__(indices) -> dict[str, Tensor]`, with `indices` a list of integers or an int64 tensor of
    shape (batch,), and every property with a leading batch dimension. A constructor that takes a keyword
    `seed` is given the seed of the run.

    Attributes:
        deterministic: True if a sample is always the same; otherwise each sample is loaded with the global generators
            seeded from (seed, epoch, index).

    Args:
        dataset_config: Configuration of the data set; None for one that is built by hand.
    """

    deterministic: bool = False

    def __init__(self, dataset_config: DatasetBaseConfig | None = None) -> None:
        self.config = dataset_config

    @classmethod
    def known_properties(cls, config: Any) -> tuple[str, ...] | None:
        """Return the properties of its samples if they are known without loading anything, else None."""
        return None

    def __len__(self) -> int:
        """Return the number of samples."""
        raise NotImplementedError(f"{type(self).__name__} defines no __len__; a data set has to know its size")

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return one sample: properties by name, without a batch dimension."""
        raise NotImplementedError(f"{type(self).__name__} defines no __getitem__, which returns one sample")


class View(Dataset):
    """Base of data sets that show another one: a part of it, or its samples after transforms.

    Args:
        dataset: The other data set.
    """

    def __init__(self, dataset: AnyDataset) -> None:
        super().__init__(getattr(dataset, "config", None))
        self.dataset = dataset


def called(dataset: AnyDataset) -> str:
    """Return the name of a data set in messages: its kind, or its class without a config."""
    while isinstance(dataset, View):
        dataset = dataset.dataset
    config = getattr(dataset, "config", None)
    return str(getattr(config, "kind", "") or type(dataset).__name__)


class InMemoryDataset(Dataset):
    """Serves samples from tensors; a batch is one gather for each property.

    Attributes:
        properties: The tensors by property name.
        exact: Properties in float64 that float32, as `properties` holds them, cannot hold exactly; for transforms that
            come before rounding. Empty for most data sets.

    Args:
        properties: Property name to tensor or array of shape (samples, ...); all of the same length.
        dataset_config: Configuration of the data set; None for one that is built by hand.

    Raises:
        DataError: if there is no property, or their lengths differ.
    """

    deterministic = True

    def __init__(self, properties: Mapping[str, Tensor], dataset_config: DatasetBaseConfig | None = None) -> None:
        super().__init__(dataset_config)
        properties = {name: _as_tensor(name, values) for name, values in properties.items()}
        lengths = {name: len(tensor) if tensor.ndim else None for name, tensor in properties.items()}
        if len(set(lengths.values())) != 1 or None in lengths.values():
            raise DataError(
                f"wrong lengths of properties: found {lengths}, expected the same for each: one entry a sample"
            )
        self.properties = {name: tensor.contiguous() for name, tensor in properties.items()}
        self.exact: dict[str, Tensor] = {}
        self._length = len(next(iter(self.properties.values())))

    def in_full(self) -> InMemoryDataset:
        """Return the data set with its exact properties."""
        return InMemoryDataset(self.properties | self.exact, self.config) if self.exact else self

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        # Copies: a transform that changes its sample in place would change the data for the next epoch.
        return {name: tensor[index].clone() for name, tensor in self.properties.items()}

    def __getitems__(self, indices: list[int] | Tensor) -> Batch:
        """Return the batch of the samples at `indices`."""
        chosen = indices if type(indices) is Tensor else torch.as_tensor(indices, dtype=torch.int64)
        batch = {}
        for name in self.properties:  # a comprehension would be two calls more, at every update
            batch[name] = self.properties[name].index_select(0, chosen)
        return batch


_SPREAD_BYTES = 64 << 20


class StoredDataset(Dataset):
    """Base of data sets that stay on disk: a subclass has `__len__` and `read`, and a batch is one call of it.

    Models get float32, int64 and bool. Statistics of `normalize` are computed from the numbers of the file.

    Attributes:
        holds_doubles: True if a property is float64 in the file; transforms that come before rounding then get it.
        shuffle_block: Consecutive samples that training reads in a row; None if every order is equally fast.
    """

    deterministic = True
    holds_doubles: bool = False
    shuffle_block: int | None = None
    _is_exact: bool = False

    def read(self, indices: Tensor) -> dict[str, Any]:
        """Return samples in the types of the file: properties by name, with a leading batch dimension.

        Args:
            indices: Places of the samples, an int64 tensor of shape (batch,), in any order.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no read, which returns the samples at some indices")

    def as_served(self, values: Tensor) -> Tensor:
        """Return numbers of the file in the types that models take; float64 as it is in a data set of `in_full`."""
        return values if self._is_exact and values.dtype == torch.float64 else served(values)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: tensor[0] for name, tensor in self.__getitems__([range(len(self))[index]]).items()}

    def __getitems__(self, indices: list[int] | Tensor) -> Batch:
        """Return the batch of the samples at `indices`."""
        read = self.read(torch.as_tensor(indices, dtype=torch.int64))
        return {name: self.as_served(values) for name, values in read.items()}

    def in_full(self) -> Self:
        """Return the data set with float64 where the file has it."""
        other = copy.copy(self)
        other._is_exact = True
        return other

    def spread(self, most: int) -> InMemoryDataset:
        """Return samples from all over the data set, at most `most` and 64 MiB, with their exact numbers."""
        held = sum(values.nbytes for values in self.read(torch.arange(1)).values())
        count = max(2, min(most, len(self), _SPREAD_BYTES // max(1, held)))
        return self.held_in_memory(self.read(torch.linspace(0, len(self) - 1, count, dtype=torch.float64).long()))

    def held_in_memory(self, read: Mapping[str, Tensor]) -> InMemoryDataset:
        """Return samples that were read as a data set of their own, with their exact numbers."""
        made = InMemoryDataset({name: served(values) for name, values in read.items()}, self.config)
        made.exact = exact_ones(read, made.properties)
        return made


def shuffle_block(dataset: AnyDataset) -> int | None:
    """Return the number of consecutive samples that a data set wants to be read in a row, if it has such a wish."""
    while isinstance(dataset, View):
        dataset = dataset.dataset
    block: int | None = getattr(dataset, "shuffle_block", None)
    return block


def _as_tensor(name: str, values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"property {name!r} cannot be converted to a tensor: {error}") from error


class GatheringDataset(Protocol):
    """A data set that gathers whole batches."""

    def __getitems__(self, indices: list[int] | Tensor) -> Batch:
        """Return the batch of the samples at `indices`."""
        ...


def in_memory(dataset: AnyDataset) -> InMemoryDataset | None:
    """Return the data set if its samples are the rows of its tensors, else None: a subclass may change them."""
    if not isinstance(dataset, InMemoryDataset):
        return None
    own, base = type(dataset), InMemoryDataset
    methods = ((own.__getitem__, base.__getitem__), (own.__getitems__, base.__getitems__), (own.__len__, base.__len__))
    return dataset if all(one is another for one, another in methods) else None


def gathering(dataset: AnyDataset) -> GatheringDataset | None:
    """Return the data set if it gathers whole batches, else None.

    Only subclasses of `Dataset` do: by torch's convention, others return a list of samples. A subclass that overrides
    `__getitem__` alone does not: the inherited `__getitems__` would gather other samples.
    """
    if isinstance(dataset, Dataset):
        for owner in type(dataset).__mro__:
            if "__getitems__" in vars(owner):
                return cast(GatheringDataset, dataset)
            if "__getitem__" in vars(owner):
                return None
    return None


def length_of(dataset: AnyDataset) -> int:
    """Return the number of samples of any map-style data set.

    Raises:
        DataError: if the data set has no length.
    """
    try:
        return len(dataset)  # type: ignore[arg-type]  # torch's base class declares no __len__
    except (TypeError, NotImplementedError) as error:
        raise DataError(
            f"the data set {type(dataset).__name__} has no length, expected a map-style data set",
            hint="define __len__ and __getitem__(index)",
        ) from error
    except (Exception, SystemExit) as error:
        raise DataError(
            f"the data set {called(dataset)} cannot be counted: its __len__ raised {error_text(error)}"
        ) from error


NOISE = 1e-12
"""Relative size of rounding errors in float64 that a computed column may have: one that varies less is constant."""


def single(values: Tensor) -> Tensor:
    """Return a tensor of float64 in float32, others as they are."""
    return values.to(torch.float32) if values.dtype == torch.float64 else values


def served(tensor: Tensor) -> Tensor:
    """Return numbers in the types that models and losses take: float32, int64 and bool."""
    if tensor.is_floating_point():
        return tensor.to(torch.float32)
    return tensor if tensor.dtype == torch.bool else tensor.to(torch.int64)


def exact_ones(values: Mapping[str, Tensor], rounded: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of float64 that are not equal to their rounded form."""
    return {
        name: tensor
        for name, tensor in values.items()
        if tensor.dtype == torch.float64 and not torch.equal(rounded[name].double(), tensor)
    }


LARGEST_ERROR = 0.01
"""Largest error of rounding, as a share of the standard deviation."""


def require_kept(dataset: InMemoryDataset) -> InMemoryDataset:
    """Return the data set without its exact numbers.

    Raises:
        DataError: if rounding to float32 has made a column zero, infinite or constant, or nearly so.
    """
    for name, exact in dataset.exact.items():
        rows, lost = lost_columns(exact, dataset.properties[name])
        if lost.any():
            raise _lost(dataset, name, int(lost.nonzero()[0]), rows)
    if not dataset.exact:
        return dataset
    return InMemoryDataset(dataset.properties, dataset.config)


def lost_columns(exact: Tensor, rounded: Tensor) -> tuple[Tensor, Tensor]:
    """Return numbers as rows of columns, and True for each column that rounding has made zero, infinite or constant."""
    rows = exact.reshape(-1, exact.shape[-1] if exact.ndim > 1 else 1)
    apart = rounded.double().reshape(rows.shape) - rows
    deviation = rows.std(0, correction=0)
    varies = deviation > NOISE * rows.abs().amax(0)
    lost = varies & (apart.square().mean(0).sqrt() > LARGEST_ERROR * deviation)
    lost |= (rows != 0).any(0) & (apart == -rows).all(0)
    lost |= (apart.isinf() & rows.isfinite()).any(0)
    return rows, lost


def _lost(dataset: InMemoryDataset, name: str, place: int, rows: Tensor) -> DataError:
    columns = (getattr(dataset.config, "properties", None) or {}).get(name, name)
    is_list = isinstance(columns, list) and len(columns) == rows.shape[1]  # a category takes several places
    column = columns[place] if is_list else columns if isinstance(columns, str) else name
    beside = "" if column == name else f" in property {name!r}"
    low, high = rows[:, place].aminmax()
    return DataError(
        f"the numbers of {column!r}{beside} are lost in float32: found {low:.17g} to {high:.17g}, expected numbers "
        "that differ by more than their rounding",
        hint='normalise them, which comes before rounding: [[transforms]] kind = "normalize", properties = '
        f'["{name}"]; or leave them out of `properties` of the data set',
    )
