"""file: samples from .npz, .safetensors, .parquet, .csv and .tsv files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from noether.data.dataset import InMemoryDataset, exact_ones, served
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
from noether.data.sources.tables import files_of
from noether.data.splits import part_indices
from noether.errors import DataError


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
