"""file: samples from an .npz, .safetensors, .parquet or .csv file."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from noether.config.components import DatasetBaseConfig
from noether.data.dataset import InMemoryDataset, exact_ones
from noether.data.randomness import train_test_indices
from noether.data.sources.columns import Columns, read_columns
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


def array_names(properties: dict[str, str | list[str]]) -> list[str]:
    """Return each array that is used, once."""
    used = (name for names in properties.values() for name in ([names] if isinstance(names, str) else names))
    return list(dict.fromkeys(used))


def assembled(path: Path, properties: dict[str, str | list[str]], columns: Columns) -> dict[str, Tensor]:
    """Return the properties that arrays make.

    Raises:
        DataError: if the arrays differ in length, or those of a property are not one number a sample.
    """
    common_length(path, columns)
    result = {}
    for name, parts in properties.items():
        if isinstance(parts, str):
            result[name] = columns[parts]
            continue
        if not parts:
            raise DataError(
                f"{path}: no arrays for property {name!r}: found [], expected at least one name",
                hint=f"list names of arrays, such as {name} = {list(columns)[:2]}",
            )
        for part in parts:
            if columns[part].ndim != 1 and tuple(columns[part].shape[1:]) != (1,):
                shape = tuple(columns[part].shape)
                raise DataError(
                    f"{path}: wrong shape of {part!r} in property {name!r}: found {shape}, expected (samples,)",
                    hint=f'to use it as it is: {name} = "{part}"',
                )
        columns_of = [columns[part].reshape(-1) for part in parts]  # one number a sample may be (samples, 1)
        if len({column.dtype for column in columns_of}) > 1:
            columns_of = [column.double() for column in columns_of]
        result[name] = torch.stack(columns_of, dim=1)
    return result


def common_length(path: Path, tensors: dict[str, Tensor]) -> int:
    """Return the number of samples.

    Raises:
        DataError: if the arrays differ in length.
    """
    lengths = {name: len(tensor) if tensor.ndim else None for name, tensor in tensors.items()}
    if len(set(lengths.values())) != 1 or None in lengths.values():
        found = ", ".join(f"{name}: {'no dimension' if n is None else n}" for name, n in lengths.items())
        raise DataError(
            f"{path}: wrong lengths of arrays: found {found or 'no array'}, expected one entry a sample",
            hint="choose arrays of one length with `properties`",
        )
    length = next(iter(lengths.values()))
    assert length is not None
    return length


def served(tensor: Tensor) -> Tensor:
    """Return numbers in the types that models and losses take: float32, int64 and bool."""
    if tensor.is_floating_point():
        return tensor.to(torch.float32)
    return tensor if tensor.dtype == torch.bool else tensor.to(torch.int64)
