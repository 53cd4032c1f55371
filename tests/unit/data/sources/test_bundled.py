"""The digits that come with scikit-learn, and the elevation grid that comes with matplotlib."""

import subprocess
import sys

import pytest
import torch
from sklearn.datasets import load_digits

from noether.data.sources.bundled import DigitsConfig, DigitsDataset, TerrainConfig, TerrainDataset


def digits(**options: object) -> DigitsDataset:
    return DigitsDataset(DigitsConfig.model_validate(options))


def test_samples_are_images_between_zero_and_one_and_a_label() -> None:
    dataset = digits()
    sample = dataset[0]
    assert sample["image"].shape == (1, 8, 8)
    assert sample["image"].dtype == torch.float32
    assert sample["label_target"].dtype == torch.int64
    assert dataset.properties["image"].aminmax() == (0, 1)


def test_both_parts_together_are_scikit_learns_digits() -> None:
    parts = [digits(split=split, split_seed=3).properties for split in ("train", "test")]
    images = torch.cat([part["image"] for part in parts]).flatten(1)
    labels = torch.cat([part["label_target"] for part in parts])
    expected = load_digits()
    assert [len(part["image"]) for part in parts] == [1438, 359]
    rows = sorted([*image, label] for image, label in zip((images * 16).tolist(), labels.tolist(), strict=True))
    assert rows == sorted(
        [*image, label] for image, label in zip(expected.data.tolist(), expected.target.tolist(), strict=True)
    )


def test_a_split_seed_overrides_the_seed_of_the_run() -> None:
    config = DigitsConfig(split_seed=3)
    one, other = (DigitsDataset(config, seed=seed).properties["label_target"] for seed in (0, 1))
    assert torch.equal(one, other)


@pytest.mark.slow
def test_reading_imports_neither_scikit_learn_nor_pandas() -> None:
    code = (
        "import sys; from noether.data.sources.bundled import *; DigitsDataset(DigitsConfig());"
        "assert not {'sklearn', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def terrain(**options: object) -> TerrainDataset:
    return TerrainDataset(TerrainConfig.model_validate(options))


def test_parts_are_a_random_fifth_and_the_rest_of_all_grid_points() -> None:
    train, test = terrain(split="train"), terrain(split="test")
    assert (len(train), len(test)) == (110_906, 27_726)
    east, north = torch.cat([train.properties["coords"], test.properties["coords"]]).double().T
    assert len((east * 1e6 + north).unique()) == 344 * 403


def test_a_sample_is_a_place_in_metres_and_its_elevation() -> None:
    sample = terrain()[0]
    assert sample["coords"].shape == (2,)
    assert sample["elevation_target"].shape == (1,)
    assert {value.dtype for value in sample.values()} == {torch.float32}


def test_the_grid_is_as_large_as_on_the_map() -> None:
    both = [terrain(split=split).properties for split in ("train", "test")]
    extent = torch.cat([part["coords"] for part in both]).amax(0)
    elevation = torch.cat([part["elevation_target"] for part in both])
    torch.testing.assert_close(extent, torch.tensor([29_950.0, 31_830.0]), rtol=1e-3, atol=0)
    assert elevation.aminmax() == (236, 1076)


def test_fewer_samples_are_spread_over_the_part() -> None:
    few = terrain(max_samples=500).properties["coords"]
    assert len(few) == 500
    assert (few.amax(0) > 29_000).all()
    assert torch.equal(few, terrain(max_samples=500).properties["coords"])
