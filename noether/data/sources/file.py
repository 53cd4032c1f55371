"""`file` and `disk`: samples of data files, in memory, or larger than memory and read batch by batch."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from noether.data.dataset import InMemoryDataset, StoredDataset, exact_ones, served
from noether.data.randomness import LARGEST_SORTED, Bijection
from noether.data.sources import tables
from noether.data.sources.columns import (
    TABLES,
    ArraysConfig,
    Columns,
    array_names,
    array_names_in,
    assembled,
    codes_of,
    common_length,
    read_arrays,
)
from noether.data.sources.delimited import TableFormat
from noether.data.sources.mapped import StoredArray, open_arrays
from noether.data.sources.tables import files_of
from noether.data.splits import part_indices, part_of_many
from noether.errors import DataError


class DiskConfig(ArraysConfig):
    """Settings of `disk`."""

    path: str = Field(
        examples=["data/wings.h5"],
        description="The file: .npy, .npz (not compressed), .safetensors, .h5, .hdf5 or .zarr; or a folder of .npy "
        "files, each an array by the name of its file.",
    )
    shuffle_block: int | None = Field(
        None,
        ge=1,
        examples=[1024],
        description="Shuffle blocks of this many consecutive samples, 64 at a time, so that the disk reads in a row. "
        "Take the samples in a chunk of a compressed file. Without it, every order is equally likely.",
    )


class DiskDataset(StoredDataset):
    """Serves the samples of a file that stays on disk; a batch is one gather, and takes memory for itself only.

    The samples are those of `file`, bit for bit. A file in HDF5 or zarr is decoded chunk by chunk; the others, and
    HDF5 without chunks, are mapped for reading.

    Args:
        dataset_config: The file, its arrays, and the part of its samples.
        seed: Seed of the run; decides the split where the config names no seed.

    Attributes:
        shuffle_block: Consecutive samples that training reads in a row; None for an order without blocks.

    Raises:
        DataError: if the file is missing, damaged or truncated, lacks an array, or its arrays do not hold samples.
    """

    @classmethod
    def known_properties(cls, config: DiskConfig) -> tuple[str, ...] | None:
        """Return the properties that the config names; else the file has to be opened for them."""
        return None if config.properties is None else tuple(config.properties)

    def __init__(self, dataset_config: DiskConfig, *, seed: int = 0) -> None:
        super().__init__(dataset_config)
        self.shuffle_block = dataset_config.shuffle_block
        self._path = Path(dataset_config.path)
        self._wanted = dataset_config.properties
        self._arrays: dict[str, StoredArray] = {}
        self._opened_by = 0
        shapes = self._properties(
            {name: torch.empty(a.shape, dtype=a.dtype, device="meta") for name, a in self._opened().items()}
        )
        self._total = common_length(self._path, shapes)
        self.holds_doubles = any(shape.dtype == torch.float64 for shape in shapes.values())
        self._part = self._part_of(dataset_config, seed)

    def _part_of(self, config: DiskConfig, seed: int) -> range | Tensor:
        """Return the places of the samples in the file, or of more than can be sorted in the order of the split."""
        self._split: Bijection | None = None
        if config.split is None:
            return range(self._total)
        if self._total <= LARGEST_SORTED or config.split_column is not None:
            codes = None if config.split_column is None else self._codes(config.split_column)
            part = part_indices(config, self._total, seed, codes)
            assert part is not None
            return part
        if self.shuffle_block is not None:
            raise DataError(
                f"{self._path} cannot be split and shuffled in blocks: found {self._total} samples, expected at most "
                f"{LARGEST_SORTED}",
                hint="write the parts to files of their own, or leave out shuffle_block",
            )
        self._split, low, high = part_of_many(config, self._total, seed)
        return range(low, high)

    def _codes(self, name: str) -> Tensor:
        """Return the group of each sample, from the numbers of an array."""
        array = open_arrays(self._path, [name])[name]
        return codes_of(self._path, name, array.take(np.arange(self._total)))

    def _opened(self) -> dict[str, StoredArray]:
        """Return the arrays as this process has opened them: a worker shares no handle with its parent."""
        if self._opened_by != os.getpid():
            self._arrays = open_arrays(self._path, None if self._wanted is None else array_names(self._wanted))
            self._opened_by = os.getpid()
        return self._arrays

    def _properties(self, columns: dict[str, Tensor]) -> dict[str, Tensor]:
        return columns if self._wanted is None else assembled(self._path, self._wanted, columns)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": {}, "_opened_by": 0}

    def __len__(self) -> int:
        return len(self._part)

    def read(self, indices: Tensor) -> dict[str, Tensor]:
        """Return samples in the types of the file.

        Raises:
            DataError: if the file has changed, or is damaged.
        """
        if isinstance(self._part, Tensor):
            indices = self._part[indices]
        elif self._part.start:
            indices = indices + self._part.start
        if self._split is not None:
            indices = self._split.at(indices)
        places = np.ascontiguousarray(indices.numpy())
        return self._properties({name: array.take(places) for name, array in self._opened().items()})


class FileConfig(ArraysConfig):
    """Settings of `file`."""

    path: str = Field(
        examples=["data/wing.npz"],
        description="The file: .npz, .safetensors, .parquet, .csv or .tsv; or a pattern for several files with the "
        "same columns, such as `parts/*.csv`, which are read in the order of their names.",
    )
    categories: dict[str, list[str]] = Field(
        default_factory=dict,
        examples=[{"material": ["aluminium", "steel"]}],
        description="Texts of a column of a table. Alone in a property, a text is its number from 0 on (`label_target "
        "= 'species'`); in a list of columns it is one-hot: a column of 0 and 1 for each category.",
    )
    missing: Literal["error", "drop"] = Field(
        "error", description="Rows of a table that lack a value in a column that is used: refused, or left out."
    )
    delimiter: str | None = Field(
        None, min_length=1, max_length=1, examples=[";"], description="Between the columns of a csv; found if left out."
    )
    decimal: Literal[".", ","] = Field(".", description="Before the fraction of a number in a csv.")

    @field_validator("categories")
    @classmethod
    def _different(cls, categories: dict[str, list[str]]) -> dict[str, list[str]]:
        for name, texts in categories.items():
            if not texts or len(set(texts)) < len(texts):
                raise ValueError(f"wrong categories of {name!r}: found {texts}, expected different texts")
        return categories

    @property
    def form(self) -> TableFormat:
        """The form of its tables."""
        return TableFormat(self.delimiter, self.decimal, self.categories, self.missing)

    def compared_files(self) -> Sequence[Path] | None:
        """Return the files of a pattern."""
        files = files_of(Path(self.path))
        return None if files == [Path(self.path)] else files

    def categories_by_name(self) -> Mapping[str, Sequence[str]]:
        """Return the categories by column."""
        return self.categories

    def class_names(self, property_name: str) -> Sequence[str] | None:
        """Return the categories of a property that is one column."""
        column = (self.properties or {}).get(property_name, property_name)
        return self.categories.get(column) if isinstance(column, str) else None


class FileDataset(InMemoryDataset):
    """Serves the samples of one file, or of several below each other; the first dimension of arrays counts samples.

    Floating-point numbers become float32 and integers int64, which is what models and losses take; `normalize` is given
    the numbers of the file.

    Args:
        dataset_config: The file, its arrays, and the part of its samples.
        seed: Seed of the run; decides the split where the config names no seed.

    Raises:
        DataError: if the file is missing, damaged, lacks an array, or its arrays do not hold samples.
    """

    @classmethod
    def known_properties(cls, config: FileConfig) -> tuple[str, ...] | None:
        """Return the properties that the config names; else the file has to be read for them."""
        return None if config.properties is None else tuple(config.properties)

    def __init__(self, dataset_config: FileConfig, *, seed: int = 0) -> None:
        path = Path(dataset_config.path)
        wanted = dataset_config.properties
        names = None if wanted is None else array_names(wanted)
        columns, codes = read_files(path, names, dataset_config)
        tensors = columns
        if wanted is not None:
            tensors = assembled(path, *_one_hot(wanted, columns, dataset_config.categories))
        part = part_indices(dataset_config, common_length(path, tensors), seed, codes)
        if part is not None:
            tensors = {name: tensor[part] for name, tensor in tensors.items()}
        plain = {name: served(tensor) for name, tensor in tensors.items()}
        super().__init__(plain, dataset_config)
        self.exact = exact_ones(tensors, self.properties)


def column_names(config: FileConfig) -> list[str]:
    """Return the names of the arrays or columns of a file, without reading all of it.

    Raises:
        DataError: if the file is missing, of an unknown format, or damaged.
    """
    first = files_of(Path(config.path))[0]
    return tables.column_names(first, config.form) if _is_table(first) else array_names_in(first)


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in TABLES


def read_files(path: Path, names: Collection[str] | None, config: FileConfig) -> tuple[Columns, Tensor | None]:
    """Return arrays of one file or of several, and the group of each sample if it is split by one.

    Args:
        path: The file or pattern.
        names: Names of the arrays; None for all.
        config: Form of the files, and the split.

    Raises:
        DataError: if a file is missing or damaged, lacks an array, or its arrays differ from those of the others.
    """
    column, files = config.split_column, files_of(path)
    if _is_table(files[0]):
        return tables.read_columns(path, names, config.form, column, ordered=config.split_time is not None)
    if config.categories or config.missing == "drop":
        raise DataError(
            f"{path}: categories and missing values are those of tables: found {files[0].suffix}, expected one of "
            f"{', '.join(TABLES)}",
            hint="write texts as numbers, and leave out `categories` and `missing`",
        )
    wanted = names if names is None or column is None else list(dict.fromkeys([*names, column]))
    parts = [read_arrays(file, wanted) for file in files]
    for file, part in zip(files, parts, strict=True):
        if found := [name for name in {**parts[0], **part} if _kind(parts[0], name) != _kind(part, name)]:
            raise DataError(f"{file}: different arrays: found other {', '.join(found)} than in {files[0].name}")
    joined = {name: torch.cat([part[name] for part in parts]) if parts[1:] else parts[0][name] for name in parts[0]}
    codes = None if column is None else codes_of(path, column, joined[column])
    return {name: joined[name] for name in joined if name in (names or joined)}, codes


def _kind(arrays: Columns, name: str) -> object:
    """Return shape and type of an array for one sample; None if it is not there."""
    return (arrays[name].shape[1:], arrays[name].dtype, arrays[name].ndim) if name in arrays else None


def _one_hot(
    properties: Mapping[str, str | list[str]], columns: Columns, categories: Mapping[str, Sequence[str]]
) -> tuple[dict[str, str | list[str]], Columns]:
    """Return properties and columns with categories in lists as a column of 0 and 1 for each."""
    expanded, added = dict(properties), dict(columns)
    for name, parts in properties.items():
        if isinstance(parts, str) or not categories.keys() & set(parts):
            continue
        made: list[str] = []
        for part in parts:
            texts = categories.get(part)
            new = [part] if texts is None else [f"\x1f{part}={text}" for text in texts]
            if texts is not None:
                added |= {key: (columns[part] == place).float() for place, key in enumerate(new)}
            made += new
        expanded[name] = made
    return expanded, added
