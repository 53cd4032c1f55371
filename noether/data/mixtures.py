"""concat and mixture: several data sets as one, each sample once or drawn by the weights of their parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field, field_validator
from torch import Tensor

from noether.config.base import component_of
from noether.config.components import DatasetBaseConfig
from noether.config.discriminated import Discriminated
from noether.data.build import build_dataset, build_transform
from noether.data.dataset import (
    AnyDataset,
    Batch,
    Dataset,
    InMemoryDataset,
    StoredDataset,
    called,
    exact_ones,
    gathering,
    in_memory,
    length_of,
    require_kept,
    shuffle_block,
)
from noether.data.fetch import first_sample
from noether.data.sampling import Mixed, mixture_of
from noether.data.views import transformed
from noether.errors import DataError, placed


class ConcatConfig(DatasetBaseConfig):
    """Settings of `concat`."""

    parts: list[Annotated[Any, Discriminated("dataset")]] = Field(
        min_length=1,
        examples=[[{"kind": "file", "path": "data/2024.csv"}, {"kind": "file", "path": "data/2025.csv"}]],
        description="The data sets, each a table of its own. Their samples have the same properties. A part may have "
        "transforms that are not fitted, such as a change of units; `collate` belongs to the whole.",
    )

    @field_validator("parts")
    @classmethod
    def _without_collate(cls, parts: list[Any]) -> list[Any]:
        for place, part in enumerate(parts):
            if getattr(part, "collate", None) is not None:
                raise ValueError(f"collate of a part: found it in part {place}, expected it beside parts")
        return parts


class MixtureConfig(ConcatConfig):
    """Settings of `mixture`."""

    weights: list[float] = Field(
        min_length=1,
        examples=[[3.0, 1.0]],
        description="Share of each part in every epoch, in their order; only their ratios matter.",
    )
    samples_per_epoch: int | None = Field(
        None,
        ge=1,
        examples=[10_000],
        description="Samples in an epoch of training; unset: as many as all parts have together.",
    )

    @field_validator("weights")
    @classmethod
    def _positive(cls, weights: list[float]) -> list[float]:
        for weight in weights:
            if not 0 < weight < float("inf"):
                raise ValueError(f"wrong weight of a part: found {weight:g}, expected a finite number above 0")
        return weights


class ConcatDataset(Dataset):
    """Serves the samples of several data sets, one behind the other.

    Making one gives the data set that is fastest for its parts: rows of tensors if all parts are.

    Args:
        dataset_config: The parts.
        seed: Seed of the run, for parts that split by it.

    Raises:
        DataError: if the samples of the parts differ in their properties, or a part is empty.
    """

    @classmethod
    def known_properties(cls, config: ConcatConfig) -> tuple[str, ...] | None:
        """Return the properties of the first part if they are known without loading anything."""
        first = config.parts[0]
        known = getattr(component_of(first).target, "known_properties", None)
        found: tuple[str, ...] | None = known(first) if known is not None and not first.transforms else None
        return found

    def __new__(cls, dataset_config: ConcatConfig, *, seed: int = 0) -> Any:
        """Return the data set of the parts."""
        parts = [_built(place, part, seed) for place, part in enumerate(dataset_config.parts)]
        return joined(parts, dataset_config, seed=seed)

    def __init__(self, dataset_config: ConcatConfig, *, seed: int = 0) -> None: ...


class MixtureDataset(ConcatDataset):
    """Serves several data sets; training draws from each by its weight, and evaluation visits each sample once.

    Every epoch has the same number of samples of a part, and a part is visited in passes of its own, which go on from
    epoch to epoch. Statistics of `normalize` are those of all samples, each once.

    Args:
        dataset_config: The parts, their weights and the length of an epoch.
        seed: Seed of the run, for parts that split by it.

    Raises:
        DataError: if the samples of the parts differ in their properties, a part is empty, or weights are missing.
    """

    def __new__(cls, dataset_config: MixtureConfig, *, seed: int = 0) -> Any:
        """Return the data set of the parts, with the order of training."""
        weights = tuple(dataset_config.weights)
        parts = [_built(place, part, seed) for place, part in enumerate(dataset_config.parts)]
        if len(weights) != len(parts):
            raise DataError(f"wrong number of weights: found {len(weights)} for {len(parts)} parts, expected one each")
        whole = joined(parts, dataset_config, seed=seed)
        sizes = tuple(map(length_of, parts))
        vars(whole)["mixture"] = Mixed(sizes, weights, dataset_config.samples_per_epoch or sum(sizes))
        return whole

    def __init__(self, dataset_config: MixtureConfig, *, seed: int = 0) -> None: ...


def _built(place: int, config: DatasetBaseConfig, seed: int) -> AnyDataset:
    """Return a part after its own transforms."""
    with placed("parts", place):
        dataset = build_dataset(config, seed=seed)
        if mixture_of(dataset) is not None:
            raise DataError(
                f"a mixture as a part: found one in part {place}, whose weights would not count; expected its own parts"
            )
        transforms = [build_transform(each, seed=seed) for each in getattr(config, "transforms", ())]
        for transform in transforms:
            if not transform.fitted:
                kind = transform.config.kind if transform.config else type(transform).__name__
                raise DataError(
                    f"the transform {kind!r} of a part cannot be fitted: found it in part {place}, expected it for the "
                    "whole, whose statistics are those of all parts",
                    hint="move it beside parts, or to [[transforms]]",
                )
        dataset = transformed(dataset, transforms) if transforms else dataset
        if not length_of(dataset):
            raise DataError(f"no samples: part {place} ({called(dataset)}) is empty, expected at least 1")
        return dataset


def joined(parts: Sequence[AnyDataset], config: DatasetBaseConfig | None = None, *, seed: int = 0) -> AnyDataset:
    """Return data sets as one, in the fastest way that gives the same samples.

    Raises:
        DataError: if their samples differ in their properties.
    """
    _require_same_properties(parts, seed, varies=getattr(config, "collate", None) is not None)
    _require_same_categories(parts)
    memory = [found for part in parts if (found := in_memory(part)) is not None]
    if len(memory) == len(parts):
        names = memory[0].properties
        whole = InMemoryDataset({name: torch.cat([each.properties[name] for each in memory]) for name in names}, config)
        full = {
            name: torch.cat([each.exact.get(name, each.properties[name]).double() for each in memory])
            for name in names
            if any(name in each.exact for each in memory)
        }
        whole.exact = exact_ones(full, whole.properties)
        return whole
    if all(isinstance(part, StoredDataset) or in_memory(part) is not None for part in parts):
        return StoredParts(parts, config)
    return (GatheredParts if all(gathering(part) is not None for part in parts) else Parts)(parts, config)


class Parts(Dataset):
    """Several data sets as one, one behind the other.

    Args:
        parts: The data sets.
        dataset_config: Configuration of the whole; None for one that is built by hand.
    """

    def __init__(self, parts: Sequence[AnyDataset], dataset_config: DatasetBaseConfig | None = None) -> None:
        super().__init__(dataset_config)
        self.parts = [require_kept(part) if isinstance(part, InMemoryDataset) else part for part in parts]
        self.ends = torch.tensor([length_of(part) for part in parts]).cumsum(0)
        self.deterministic = all(bool(getattr(part, "deterministic", False)) for part in parts)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Any:
        index = range(len(self))[index]
        part = int(torch.searchsorted(self.ends, index, right=True))
        return self.parts[part][index - (int(self.ends[part - 1]) if part else 0)]


class GatheredParts(Parts):
    """Several data sets as one that each gather whole batches."""

    def __getitems__(self, indices: list[int] | Tensor) -> Batch:
        """Return the batch of the samples at `indices`."""
        gather = [gathering(part) for part in self.parts]
        assert None not in gather, "joined has looked"
        return _gathered([each.__getitems__ for each in gather if each is not None], self.ends, indices)


class StoredParts(StoredDataset):
    """Several data sets as one of which some stay on disk, with the numbers of their files.

    Args:
        parts: The data sets: stored ones, or rows of tensors.
        dataset_config: Configuration of the whole; None for one that is built by hand.
    """

    def __init__(self, parts: Sequence[AnyDataset], dataset_config: DatasetBaseConfig | None = None) -> None:
        super().__init__(dataset_config)
        self.parts = list(parts)
        self.ends = torch.tensor([length_of(part) for part in parts]).cumsum(0)
        self.holds_doubles = any(getattr(part, "holds_doubles", False) or getattr(part, "exact", {}) for part in parts)
        self.shuffle_block = max((block for part in parts if (block := shuffle_block(part))), default=None)
        self._full = [part.in_full() for part in parts if isinstance(part, StoredDataset | InMemoryDataset)]

    def __len__(self) -> int:
        return int(self.ends[-1])

    def read(self, indices: Tensor) -> dict[str, Tensor]:
        """Return samples in the types of their files."""
        return _gathered([part.__getitems__ for part in self._full], self.ends, indices)


def _gathered(
    gather: Sequence[Callable[[Tensor], Batch]], ends: Tensor, indices: list[int] | Tensor
) -> dict[str, Tensor]:
    """Return a batch of samples that lie in several parts, in the order of the indices."""
    places = torch.as_tensor(indices, dtype=torch.int64)
    of_part = torch.searchsorted(ends, places, right=True)
    found, where = [], []
    for part in of_part.unique().tolist():  # type: ignore[no-untyped-call]  # torch leaves it untyped
        mine = (of_part == part).nonzero().reshape(-1)
        found.append(gather[part](places[mine] - (ends[part - 1] if part else 0)))
        where.append(mine)
    back = torch.cat(where).argsort()
    batch = {}
    for name in found[0]:
        values = [each[name] for each in found]
        wide = torch.float64 if any(value.dtype == torch.float64 for value in values) else values[0].dtype
        batch[name] = torch.cat([value.to(wide) for value in values])[back]
    return batch


def _require_same_properties(parts: Sequence[AnyDataset], seed: int, *, varies: bool) -> None:
    """Check the first sample of each part against that of the first; the number of points may vary with a collator."""
    kinds = [_kinds(part, seed, varies=varies) for part in parts]
    for place, found in enumerate(kinds[1:], start=1):
        if found != kinds[0]:
            differences = [
                f"{name}: {kinds[0].get(name, 'absent')} and {found.get(name, 'absent')}"
                for name in dict.fromkeys([*kinds[0], *found])
                if kinds[0].get(name) != found.get(name)
            ]
            raise DataError(
                f"different properties of parts 0 ({called(parts[0])}) and {place} ({called(parts[place])}): found "
                f"{'; '.join(differences)}, expected the same",
                hint="name the same properties in each part, with `properties` or a transform of the part",
            )


def _kinds(dataset: AnyDataset, seed: int, *, varies: bool) -> dict[str, str]:
    """Return type and shape of each property of the first sample, in words."""
    memory = in_memory(dataset)
    sample: Mapping[str, Any] = first_sample(dataset, seed=seed) if memory is None else memory[0]
    return {name: _kind_of(value, varies=varies) for name, value in sample.items()}


def _kind_of(value: Any, *, varies: bool) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    dtype = torch.float32 if value.dtype == torch.float64 else value.dtype  # models get float32 of either
    sizes = ["points" if varies and place == 0 else str(size) for place, size in enumerate(value.shape)]
    return f"{str(dtype).removeprefix('torch.')} of shape ({', '.join(sizes)})"


def _require_same_categories(parts: Sequence[AnyDataset]) -> None:
    """Check that a number stands for the same category, or class, in each part."""
    first: dict[str, list[str]] = {}
    for place, part in enumerate(parts):
        by_name: Mapping[str, Sequence[str]] = getattr(getattr(part, "config", None), "categories_by_name", dict)()
        for name, texts in by_name.items():
            if list(texts) != first.setdefault(name, list(texts)):
                raise DataError(
                    f"different categories of {name!r} in part {place}: found {list(texts)} and {first[name]}, "
                    "expected the same in the same order, since their places are the numbers that the model learns",
                    hint="write the categories of all parts into each of them",
                )
