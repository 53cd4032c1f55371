"""disk: samples of a file that is larger than memory, read batch by batch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from noether.data.dataset import StoredDataset
from noether.data.randomness import LARGEST_SORTED, Bijection
from noether.data.sources.columns import ArraysConfig, array_names, assembled, codes_of, common_length
from noether.data.sources.mapped import StoredArray, open_arrays
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
