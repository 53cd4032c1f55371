"""digits: 1,797 scanned digits of 8 by 8 pixels, which come with scikit-learn."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from noether.config.components import DatasetBaseConfig
from noether.data.dataset import InMemoryDataset
from noether.data.randomness import train_test_indices
from noether.errors import DataError


class DigitsConfig(DatasetBaseConfig):
    """Settings of `digits`."""

    split: Literal["train", "test"] = Field("train", description="Which part of the random split.")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="Share of the digits that is held out.")
    split_seed: int | None = Field(None, examples=[0], description="Seed of the split; without it the seed of the run.")


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
        images, labels = _read()
        split_seed = seed if dataset_config.split_seed is None else dataset_config.split_seed
        indices = train_test_indices(len(labels), dataset_config.split, dataset_config.test_fraction, split_seed)
        super().__init__({"image": images[indices], "label_target": labels[indices]}, dataset_config)


def _read() -> tuple[torch.Tensor, torch.Tensor]:
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError(
            "missing package for kind 'digits': scikit-learn is not installed", hint="pip install scikit-learn"
        )
    table = torch.from_numpy(_table(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"))
    images = (table[:, :64] / 16).to(torch.float32).view(-1, 1, 8, 8)  # 16 is the brightest
    return images, table[:, 64].to(torch.int64)


def _table(path: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return 64 pixels and the label; read from the file, because importing scikit-learn takes seconds."""
    if path.is_file():
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return np.loadtxt(lines, delimiter=",", dtype=np.float64)
    from sklearn.datasets import load_digits  # the file has moved; its owner knows where to

    digits = load_digits()
    return np.column_stack([digits.data, digits.target]).astype(np.float64)
