"""file: samples from an .npz, .safetensors, .parquet or .csv file."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from noether.config.components import DatasetBaseConfig
from noether.data.dataset import InMemoryDataset, exact_ones, served
from noether.data.randomness import train_test_indices
from noether.data.sources.columns import array_names, assembled, common_length, read_columns


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
