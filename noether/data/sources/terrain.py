"""terrain: measured elevation on a grid of 344 by 403 points, which comes with matplotlib."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from noether.config.components import DatasetBaseConfig
from noether.data.dataset import InMemoryDataset
from noether.data.randomness import permutation, train_test_indices
from noether.errors import DataError

_EARTH_RADIUS = 6_371_008.8  # metres, mean radius (IUGG)


class TerrainConfig(DatasetBaseConfig):
    """Settings of `terrain`."""

    split: Literal["train", "test"] = Field("train", description="Which part of the random split.")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="Share of the grid points held out as `test`.")
    split_seed: int = Field(0, description="Seed of the split; the same for every seed of a run.")
    max_samples: int | None = Field(
        None,
        ge=1,
        examples=[10_000],
        description="Keep this many points of the part, chosen at random by `split_seed`; all without.",
    )


class TerrainDataset(InMemoryDataset):
    """Elevation around Jacksboro, Tennessee, by coordinates: a real field regression of 138,632 points.

    A sample has `coords`, float32 of shape (2,): metres east and north of the grid's south-west corner; and
    `elevation_target`, float32 of shape (1,), in metres. The file's latitude and longitude are projected
    equirectangularly at the middle latitude, which is off by less than 0.2 % over these 32 km.

    Args:
        dataset_config: The grid points.

    Raises:
        DataError: if matplotlib or its sample data is not installed.
    """

    @classmethod
    def known_properties(cls, config: TerrainConfig) -> tuple[str, ...]:
        """Return the properties of every sample."""
        return ("coords", "elevation_target")

    def __init__(self, dataset_config: TerrainConfig) -> None:
        coords, elevation = _read()
        seed = dataset_config.split_seed
        indices = train_test_indices(len(coords), dataset_config.split, dataset_config.test_fraction, seed)
        if dataset_config.max_samples is not None:
            indices = indices[permutation(len(indices), seed, 0)[: dataset_config.max_samples].sort().values]
        super().__init__({"coords": coords[indices], "elevation_target": elevation[indices]}, dataset_config)


def _read() -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(_path(), allow_pickle=False) as file:
        elevation = torch.from_numpy(file["elevation"].astype(np.float32))
        # The first row is the northernmost: `ymin` is the latitude of its upper edge, `ymax` of the lower.
        west, north, south = float(file["xmin"]), float(file["ymin"]), float(file["ymax"])
        step_x, step_y = float(file["dx"]), float(file["dy"])
    rows, columns = elevation.shape
    longitude = west + (torch.arange(columns, dtype=torch.float64) + 0.5) * step_x
    latitude = north - (torch.arange(rows, dtype=torch.float64) + 0.5) * step_y
    metres = _EARTH_RADIUS * math.radians(1)  # a degree of latitude
    east = (longitude - west) * metres * math.cos(math.radians((north + south) / 2))
    y, x = torch.meshgrid((latitude - south) * metres, east, indexing="ij")
    coords = torch.stack([x.flatten(), y.flatten()], dim=1).to(torch.float32)
    return coords, elevation.reshape(-1, 1)


def _path() -> Path:
    package = find_spec("matplotlib")  # found, not imported: the file needs none of its code
    if package is None or package.origin is None:
        raise DataError(
            "missing package for kind 'terrain': matplotlib is not installed", hint="pip install matplotlib"
        )
    path = Path(package.origin).parent / "mpl-data" / "sample_data" / "jacksboro_fault_dem.npz"
    if not path.is_file():
        raise DataError(
            f"the installed matplotlib has no sample data: {path} does not exist", hint="pip install matplotlib"
        )
    return path
