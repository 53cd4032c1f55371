"""`file` and `disk`: samples from a file, read into memory at once, or batch by batch if it is larger than memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from noether.config.components import DatasetBaseConfig
from noether.data.dataset import InMemoryDataset, StoredDataset, exact_ones, served
from noether.data.randomness import LARGEST_SORTED, Bijection, split_key, train_test_indices
from noether.data.sources.columns import array_names, assembled, common_length, read_columns
from noether.data.sources.mapped import StoredArray, open_arrays
from noether.errors import DataError


class FileConfig(DatasetBaseConfig):
    """Settings of `file`."""

    path_fields: ClassVar[tuple[str, ...]] = ("path",)

    path: str = Field(examples=["data/wing.npz"], description="The file: .npz, .safetensors, .parquet or .csv.")
    properties: dict[str, str | list[str]] | None = Field(
        None,
        examples=[{"points": ["x", "y", "z"], "pressure_target": "p"}],
        description="Properties by name: one array or column as it is (`label = 'class'`), or several of one "
        "number a sample side by side (`velocity = ['u', 'v']`). Without it every array is a property.",
    )
    split: Literal["train", "test"] | None = Field(None, description="Part of a random split; all samples without.")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="Share of the samples that is held out as `test`.")
    split_seed: int | None = Field(None, examples=[0], description="Seed of the split; without it the seed of the run.")


class FileDataset(InMemoryDataset):
    """Serves the samples of one file; the first dimension of every array counts samples.

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
        columns = read_columns(path, None if wanted is None else array_names(wanted))
        tensors = columns if wanted is None else assembled(path, wanted, columns)
        length = common_length(path, tensors)
        if dataset_config.split is not None:
            split_seed = seed if dataset_config.split_seed is None else dataset_config.split_seed
            indices = train_test_indices(length, dataset_config.split, dataset_config.test_fraction, split_seed)
            tensors = {name: tensor[indices] for name, tensor in tensors.items()}
        plain = {name: served(tensor) for name, tensor in tensors.items()}
        super().__init__(plain, dataset_config)
        self.exact = exact_ones(tensors, self.properties)


class DiskConfig(FileConfig):
    """Settings of `disk`."""

    path_fields: ClassVar[tuple[str, ...]] = ("path",)

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
        split_seed = seed if config.split_seed is None else config.split_seed
        if self._total <= LARGEST_SORTED:
            return train_test_indices(self._total, config.split, config.test_fraction, split_seed)
        if self.shuffle_block is not None:
            raise DataError(
                f"{self._path} cannot be split and shuffled in blocks: found {self._total} samples, expected at most "
                f"{LARGEST_SORTED}",
                hint="write the parts to files of their own, or leave out shuffle_block",
            )
        self._split = Bijection(self._total, split_key(split_seed))
        held_out = min(self._total, round(config.test_fraction * self._total))
        return range(held_out) if config.split == "test" else range(held_out, self._total)

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
