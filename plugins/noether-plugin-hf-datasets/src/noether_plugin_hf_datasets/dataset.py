"""hf-datasets: samples of a data set of Hugging Face `datasets`, which stays on disk."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from noether.config.components import DatasetBaseConfig
from noether.data import InMemoryDataset, StoredDataset, train_test_indices
from noether.data.sources.columns import array_names, assembled, checked_names
from noether.errors import DataError
from noether_plugin_hf_datasets.tables import RowGroups, Rows, Table, require_numbers

_logger = logging.getLogger(__name__)

_SPREAD_BYTES = 64 << 20
_MIXED = 64
"""Blocks whose samples `shuffle_block` mixes at a time."""


class HfDatasetConfig(DatasetBaseConfig):
    """Settings of `hf-datasets`."""

    path_fields: ClassVar[tuple[str, ...]] = ("path",)

    path: str | None = Field(
        None,
        examples=["data/digits"],
        description="A folder of `save_to_disk`; a .parquet, .arrow, .csv, .json or .jsonl file; or a folder of such "
        "files, read in the order of their names.",
    )
    hub: str | None = Field(
        None, examples=["ylecun/mnist"], description="Name of a data set of the hub, in place of `path`."
    )
    revision: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{40}$",
        description="Commit of the data set of the hub: a resumed run has to read the same data.",
    )
    subset: str | None = Field(None, description="Subset of the data set of the hub, if it has several.")
    split: str | None = Field(
        None,
        pattern=r"^\w[\w.-]*$",
        examples=["validation"],
        description="Name of a split of the data set; may be left out if it has one.",
    )
    streaming: bool = Field(
        False,
        description="Read Parquet in place, a row group at a time, instead of converting it to Arrow in the cache of "
        "`datasets`.",
    )
    cached_mib: int = Field(
        512, ge=1, description="MiB of decoded row groups that each process keeps with `streaming`."
    )
    properties: dict[str, str | list[str]] | None = Field(
        None,
        examples=[{"points": ["x", "y", "z"], "pressure_target": "p"}],
        description="Properties by name: one column as it is (`label_target = 'label'`), or several of one number a "
        "sample side by side. Without it every column is a property.",
    )
    part: Literal["train", "test"] | None = Field(None, description="Part of a random division; all samples without.")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="Share of the samples that is held out as `test`.")
    part_seed: int | None = Field(None, examples=[0], description="Seed of the parts; without it the seed of the run.")
    shuffle_block: int | None = Field(
        None,
        ge=1,
        examples=[1024],
        description="Shuffle blocks of this many consecutive samples, 64 at a time, so that the disk reads in a row. "
        "Without it every order is equally likely; with `streaming` it is the rows of the largest row group.",
    )

    @model_validator(mode="after")
    def _names_one_source(self) -> HfDatasetConfig:
        if (self.path is None) == (self.hub is None):
            raise ValueError("found " + ("neither" if self.path is None else "both") + ", expected `path` or `hub`")
        if self.hub is None and (self.revision or self.subset):
            raise ValueError("`revision` and `subset` belong to `hub`, and the data are at `path`")
        if self.hub is not None and self.revision is None:
            raise ValueError(
                f"`hub` needs a `revision`: a commit of 40 digits, see https://huggingface.co/datasets/{self.hub}/commits"
            )
        if self.hub is not None and self.streaming:
            raise ValueError(
                "`streaming` reads local files; download the Parquet files of the data set and give them as `path`"
            )
        return self


class HfDataset(StoredDataset):
    """Serves the samples of a data set of Hugging Face `datasets`; a batch takes memory for itself only.

    Numbers and lists of numbers become tensors by the rules of `file`: float32, int64 and bool. A list whose length
    varies is a sample of its own size, for `collate = "pad"`.

    Args:
        dataset_config: The data set, its columns, and the part of its samples.
        seed: Seed of the run; decides the parts where the config names no seed.

    Attributes:
        shuffle_block: Consecutive samples that training reads in a row; None for an order without table.

    Raises:
        DataError: if the data set is missing, damaged, lacks a column, or its columns are not numbers.
    """

    def __new__(cls, dataset_config: HfDatasetConfig | None = None, **_: Any) -> HfDataset:
        """Return a data set that gathers whole batches, unless a collator has to see the samples."""
        gathers = cls is HfDataset and dataset_config is not None and dataset_config.collate is None
        return super().__new__(GatheredHfDataset if gathers else cls)

    @classmethod
    def known_properties(cls, config: HfDatasetConfig) -> tuple[str, ...] | None:
        """Return the properties that the config names; else the data set has to be opened for them."""
        return None if config.properties is None else tuple(config.properties)

    def __init__(self, dataset_config: HfDatasetConfig, *, seed: int = 0) -> None:
        super().__init__(dataset_config)
        self._table = _opened(dataset_config)
        self._wanted = dataset_config.properties
        self._names = self._columns()
        self.shuffle_block = dataset_config.shuffle_block
        self._part = _part_of(self._table, dataset_config, seed)
        if isinstance(self._table, RowGroups):
            self.shuffle_block = self.shuffle_block or self._table.largest
            self._warn_of_a_small_cache(self._table, dataset_config.cached_mib)

    def _columns(self) -> list[str]:
        """Return the columns that are read, and note whether one is in float64.

        Raises:
            DataError: if one is missing, or holds something else than numbers.
        """
        table, source = self._table, self._table.source
        if not len(table):
            raise DataError(f"{source}: no samples: found 0 rows, expected at least 1")
        names = checked_names(source, None if self._wanted is None else array_names(self._wanted), table.schema.names)
        kinds = [require_numbers(source, name, table.schema.field(name).type) for name in names]
        table.require_no_gaps(names)
        self.holds_doubles = any(kind.equals("double") for kind in kinds)
        return names

    def _warn_of_a_small_cache(self, table: RowGroups, cached_mib: int) -> None:
        first = self.read(torch.arange(1))
        group = table.largest * sum(_bytes_of(values) for values in first.values())
        if (needed := group * _MIXED >> 20) > cached_mib and len(table) > table.largest:
            _logger.warning(
                "%s: %d row groups of %d MiB are mixed at a time and %d MiB are kept, so that each is decoded several "
                "times an epoch; write smaller row groups, or set cached_mib = %d",
                table.source, _MIXED, group >> 20, cached_mib, needed + 1,
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self._part)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[0] for name, values in self._served([range(len(self))[index]]).items()}

    def _served(self, indices: list[int] | Tensor) -> dict[str, Rows]:
        read = self.read(torch.as_tensor(indices, dtype=torch.int64))
        return {name: _each(values, self.as_served) for name, values in read.items()}

    def read(self, indices: Tensor) -> dict[str, Rows]:
        """Return samples in the types of the file: a tensor, or a list of tensors that differ in shape."""
        places = self._part[indices] if isinstance(self._part, Tensor) else indices
        columns = self._table.take(np.ascontiguousarray(places.numpy()), self._names)
        if self._wanted is None:
            return columns
        dense: dict[str, Tensor] = {name: rows for name, rows in columns.items() if isinstance(rows, Tensor)}
        beside: dict[str, str | list[str]] = {
            name: parts for name, parts in self._wanted.items() if not isinstance(parts, str)
        }
        single = {name: columns[part] for name, part in self._wanted.items() if isinstance(part, str)}
        made = assembled(self._table.source, beside, dense) if beside else {}
        return {name: made[name] if name in made else single[name] for name in self._wanted}

    def spread(self, most: int) -> InMemoryDataset:
        """Return samples from all over the data set, at most `most` and 64 MiB, with their exact numbers.

        Points of samples of different sizes stand for samples.
        """
        held = sum(_bytes_of(values) for values in self.read(torch.arange(1)).values())
        count = max(2, min(most, len(self), _SPREAD_BYTES // max(1, held)))
        read = self.read(torch.linspace(0, len(self) - 1, count, dtype=torch.float64).long())
        return self.held_in_memory({name: _rows(values, count) for name, values in read.items()})


class GatheredHfDataset(HfDataset):
    """A data set whose samples have one shape, so that a batch is gathered at once."""

    def __getitems__(self, indices: list[int] | Tensor) -> dict[str, Any]:
        """Return the batch of the samples at `indices`.

        Raises:
            DataError: if the samples differ in shape, or the file is damaged.
        """
        batch = self._served(indices)
        for name, values in batch.items():
            if isinstance(values, list):
                shapes = sorted({tuple(row.shape) for row in values})
                raise DataError(
                    f"{self._table.source}: samples of different shapes: found {name!r} of {shapes[0]} and "
                    f"{shapes[-1]} in one batch, expected one shape",
                    hint='collate = "pad" of the data set fills them up; collate = "concat" joins them',
                )
        return batch


def _opened(config: HfDatasetConfig) -> Table:
    from noether_plugin_hf_datasets.opening import open_hub, open_path

    if config.hub is not None:
        assert config.revision is not None, "the config refuses a hub without a revision"
        return open_hub(config.hub, config.subset, config.revision, config.split)
    assert config.path is not None, "the config refuses neither path nor hub"
    most_bytes = config.cached_mib << 20
    return open_path(Path(config.path), config.split, streaming=config.streaming, most_bytes=most_bytes)


def _part_of(table: Table, config: HfDatasetConfig, seed: int) -> range | Tensor:
    if config.part is None:
        return range(len(table))
    part_seed = seed if config.part_seed is None else config.part_seed
    return train_test_indices(len(table), config.part, config.test_fraction, part_seed)


def _each(values: Rows, function: Any) -> Rows:
    return [function(row) for row in values] if isinstance(values, list) else function(values)


def _bytes_of(values: Rows) -> int:
    return sum(row.nbytes for row in values) if isinstance(values, list) else values.nbytes


def _rows(values: Rows, count: int) -> Tensor:
    """Return `count` samples, or points of samples of different sizes."""
    if isinstance(values, Tensor):
        return values
    points = torch.cat(values)
    return points[torch.linspace(0, len(points) - 1, count, dtype=torch.float64).long()]
