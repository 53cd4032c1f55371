"""webdataset: samples of tar shards, each of which can be read by its number."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor

from noether.config.components import DatasetBaseConfig
from noether.data import InMemoryDataset, StoredDataset
from noether.data.sources.columns import array_names, assembled, checked_names
from noether.errors import DataError
from noether_plugin_webdataset.decode import column_name, decoded, has_names, names_in, require_known
from noether_plugin_webdataset.files import files_of
from noether_plugin_webdataset.shards import Shards

_SPREAD_BYTES = 64 << 20
Sample = dict[str, Tensor]


class ShardDatasetConfig(DatasetBaseConfig):
    """Settings of `webdataset`."""

    path_fields: ClassVar[tuple[str, ...]] = ("shards", "index")

    shards: str | list[str] = Field(
        examples=["data/train-{000000..000099}.tar"],
        description="The shards: paths or URLs (http, https, s3, gs) of tar files, or a list of them; braces stand for "
        "several, on a disk `*` and a folder as well, in the order of their names.",
    )
    properties: dict[str, str | list[str]] | None = Field(
        None,
        examples=[{"image": "png", "label_target": "cls", "points": ["x", "y", "z"]}],
        description="Properties by name: one array as it is (`label_target = 'cls'`), or several of one number a "
        "sample side by side. `cls` and `png` are arrays, `p` is that of `p.npy` and each entry of `npz`, `json` and "
        "`safetensors`, `flow.p` an entry of `flow.npz`. Without it every array is a property.",
    )
    index: str | None = Field(
        None,
        examples=["data/index"],
        description="Folder of the index, which is written once; without it, beside each shard, or in the user's cache "
        "if that folder cannot be written or the shards are remote.",
    )
    shuffle_block: int | None = Field(
        None,
        ge=1,
        examples=[1024],
        description="Shuffle blocks of this many consecutive samples, 64 at a time, so that few shards are read at a "
        "time. Without it, the samples in 16 MiB, at most those of the largest shard.",
    )

    @field_validator("shards")
    @classmethod
    def _names_some(cls, value: str | list[str]) -> str | list[str]:
        if not value or not all(value):
            raise ValueError("found an empty name of a shard, expected a path or a URL")
        return value

    def compared_files(self) -> list[Path] | None:
        """Return the shards on a disk, which a resume compares; None for remote ones."""
        names = files_of([self.shards] if isinstance(self.shards, str) else self.shards).names
        return None if "://" in names[0] else [Path(name) for name in names]


class ShardDataset(StoredDataset):
    """Serves the samples of tar shards of webdataset; a batch takes memory for itself only.

    Numbers become tensors by the rules of `file`: float32, int64 and bool. An image is float32 from 0 to 1, of shape
    (channels, height, width).

    Attributes:
        shuffle_block: Consecutive samples that training reads near each other.

    Raises:
        DataError: if a shard is missing, damaged or hostile, lacks a member, or a member is not numbers.
    """

    def __new__(cls, dataset_config: ShardDatasetConfig | None = None, **_: Any) -> ShardDataset:
        """Return a data set that gathers whole batches, unless a collator has to see the samples."""
        gathers = cls is ShardDataset and dataset_config is not None and dataset_config.collate is None
        return super().__new__(GatheredShardDataset if gathers else cls)

    @classmethod
    def known_properties(cls, config: ShardDatasetConfig) -> tuple[str, ...] | None:
        """Return the properties that the config names; else the first sample has to be read for them."""
        return None if config.properties is None else tuple(config.properties)

    def __init__(self, dataset_config: ShardDatasetConfig) -> None:
        super().__init__(dataset_config)
        shards = dataset_config.shards
        index = None if dataset_config.index is None else Path(dataset_config.index)
        self._shards = Shards([shards] if isinstance(shards, str) else shards, index)
        self._wanted = dataset_config.properties
        self._columns = self._chosen()
        self._shards.require(self._columns)
        self.shuffle_block = dataset_config.shuffle_block or self._shards.block
        self._types: dict[str, torch.dtype] = {}
        self._types = {name: values.dtype for name, values in self._exact([0])[0].items()}
        self.holds_doubles = torch.float64 in self._types.values()

    def _chosen(self) -> dict[str, list[str]]:
        """Return the columns that are read, by the suffix of their member.

        Raises:
            DataError: if there is no such column, or the format of its member is unknown.
        """
        shards = self._shards
        wanted = None if self._wanted is None else array_names(self._wanted)
        present: dict[str, str] = {}
        for suffix in shards.suffixes:
            for name in self._names_in(suffix):
                if wanted is None or name in wanted:
                    require_known(shards.member(0, suffix), suffix)
                    if name in present:
                        raise DataError(
                            f"{shards.source}: two arrays of one name: found {name!r} in .{present[name]} and in "
                            f".{suffix}",
                            hint="write one of them under another name",
                        )
                present.setdefault(name, suffix)
        chosen: dict[str, list[str]] = {}
        for name in checked_names(shards.source, wanted, list(present)):
            chosen.setdefault(present[name], []).append(name)
        return chosen

    def _names_in(self, suffix: str) -> list[str]:
        """Return the columns of the members of a suffix, from the first sample if only their content tells."""
        if not has_names(suffix):
            return [column_name(suffix)]
        if self._wanted is None:
            self._shards.require([suffix])
        elif not self._shards.has(0, suffix):
            return []
        _, members = next(self._shards.read([0], [suffix]))
        return names_in(self._shards.member(0, suffix), suffix, members[suffix])

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, index: int) -> Sample:
        return self._served([range(len(self))[index]])[0]

    def _served(self, samples: list[int]) -> list[Sample]:
        return [
            {name: self.as_served(values) for name, values in sample.items()}
            for sample in map(self._made, self._exact(samples))
        ]

    def _exact(self, samples: list[int]) -> list[Sample]:
        """Return the columns of samples, in the types that those of the first sample have."""
        found: list[Sample] = [{}] * len(samples)
        for place, members in self._shards.read(samples, list(self._columns)):
            columns: Sample = {}
            for suffix, data in members.items():
                member = self._shards.member(samples[place], suffix)
                for name, values in decoded(member, suffix, data, self._columns[suffix]).items():
                    columns[name] = self._typed(member, name, values)
            found[place] = columns
        return found

    def _typed(self, member: Path, name: str, values: Tensor) -> Tensor:
        """Return values in the type of the first sample; integers may stand for floats, as 1 does for 1.0 in JSON.

        Raises:
            DataError: if they are of another type.
        """
        expected = self._types.get(name, values.dtype)
        if values.dtype == expected:
            return values
        kinds = [values.dtype == torch.bool, values.dtype.is_floating_point]
        if expected.is_floating_point and not kinds[0]:
            return values.to(expected)
        if kinds == [expected == torch.bool, expected.is_floating_point]:
            return values
        raise DataError(
            f"{member}: wrong type of {name!r}: found {values.dtype}, expected {expected} as in the first sample",
            hint="write numbers with a fraction as floats in every sample: 1.0, not 1",
        )

    def _made(self, columns: Sample) -> Sample:
        """Return the properties that columns make."""
        if self._wanted is None:
            return columns
        beside: dict[str, str | list[str]] = {
            name: parts for name, parts in self._wanted.items() if not isinstance(parts, str)
        }
        rows = {part: columns[part].unsqueeze(0) for part in array_names(beside)}
        made = assembled(self._shards.source, beside, rows) if beside else {}
        return {
            name: columns[parts] if isinstance(parts, str) else made[name][0] for name, parts in self._wanted.items()
        }

    def spread(self, most: int) -> InMemoryDataset:
        """Return samples from all over the data set, at most `most` and 64 MiB, with their exact numbers.

        Points of samples of different sizes stand for samples.
        """
        held = sum(values.nbytes for values in self._made(self._exact([0])[0]).values())
        count = max(2, min(most, len(self), _SPREAD_BYTES // max(1, held)))
        chosen = torch.linspace(0, len(self) - 1, count, dtype=torch.float64).long().tolist()
        samples = [self._made(columns) for columns in self._exact(chosen)]
        return self.held_in_memory({name: _rows([sample[name] for sample in samples]) for name in samples[0]})


class GatheredShardDataset(ShardDataset):
    """A data set whose samples have one shape, so that a batch is read at once."""

    def __getitems__(self, indices: list[int] | Tensor) -> dict[str, Tensor]:
        """Return the batch of the samples at `indices`.

        Raises:
            DataError: if the samples differ in shape, or a shard is damaged.
        """
        samples = self._served(indices.tolist() if isinstance(indices, Tensor) else list(indices))
        batch = {}
        for name in samples[0]:
            values = [sample[name] for sample in samples]
            if len(shapes := {tuple(one.shape) for one in values}) > 1:
                raise DataError(
                    f"{self._shards.source}: samples of different shapes: found {name!r} of {min(shapes)} and "
                    f"{max(shapes)} in one batch, expected one shape",
                    hint='collate = "pad" of the data set fills them up; collate = "concat" joins them',
                )
            batch[name] = torch.stack(values)
        return batch


def _rows(values: list[Tensor]) -> Tensor:
    """Return one row for each sample, or as many points of samples of different sizes."""
    if len({tensor.shape for tensor in values}) == 1:
        return torch.stack(values)
    points = torch.cat(values)
    return points[torch.linspace(0, len(points) - 1, len(values), dtype=torch.float64).long()]
