"""digits and terrain: real data sets that come with scikit-learn and matplotlib, so that nothing is downloaded."""

from __future__ import annotations

import gzip
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from noether.data.dataset import InMemoryDataset
from noether.data.randomness import permutation
from noether.data.splits import Part, SplitConfig, part_indices
from noether.errors import DataError

_EARTH_RADIUS = 6_371_008.8  # metres, mean radius (IUGG)


class DigitsConfig(SplitConfig):
    """Settings of `digits`."""

    split: Part = Field("train", description="Part of the random split.")


class DigitsDataset(InMemoryDataset):
    """Handwritten digits, optically recognised (Alpaydin & Kaynak 1998; bundled with scikit-learn).

    A sample has `image`, float32 of shape (1, 8, 8) between 0 and 1, and `label_target`, an int64 number from
    0 to 9.

    Args:
        dataset_config: The part of the digits.
        seed: Seed of the run; decides the split where the config names no seed.

    Raises:
        DataError: if scikit-learn is not installed.
    """

    @classmethod
    def known_properties(cls, config: DigitsConfig) -> tuple[str, ...]:
        """Return the properties of every sample."""
        return ("image", "label_target")

    def __init__(self, dataset_config: DigitsConfig, *, seed: int = 0) -> None:
        images, labels = _read_digits()
        part = part_indices(dataset_config, len(labels), seed)
        indices = torch.arange(len(labels)) if part is None else part
        super().__init__({"image": images[indices], "label_target": labels[indices]}, dataset_config)


def _read_digits() -> tuple[torch.Tensor, torch.Tensor]:
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError(
            "missing package for kind 'digits': scikit-learn is not installed", hint="pip install scikit-learn"
        )
    table = torch.from_numpy(_digits_table(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"))
    images = (table[:, :64] / 16).to(torch.float32).view(-1, 1, 8, 8)  # 16 is the brightest
    return images, table[:, 64].to(torch.int64)


def _digits_table(path: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return 64 pixels and the label; read from the file, because importing scikit-learn takes seconds."""
    if path.is_file():
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return np.loadtxt(lines, delimiter=",", dtype=np.float64)
    from sklearn.datasets import load_digits  # the file has moved; its owner knows where to

    digits = load_digits()
    return np.column_stack([digits.data, digits.target]).astype(np.float64)


class TerrainConfig(SplitConfig):
    """Settings of `terrain`."""

    split: Part = Field("train", description="Part of the random split.")
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
        coords, elevation = _read_terrain()
        seed = dataset_config.split_seed
        part = part_indices(dataset_config, len(coords), seed)
        indices = torch.arange(len(coords)) if part is None else part
        if dataset_config.max_samples is not None:
            indices = indices[permutation(len(indices), seed, 0)[: dataset_config.max_samples].sort().values]
        super().__init__({"coords": coords[indices], "elevation_target": elevation[indices]}, dataset_config)


def _read_terrain() -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(_terrain_path(), allow_pickle=False) as file:
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


def _terrain_path() -> Path:
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
