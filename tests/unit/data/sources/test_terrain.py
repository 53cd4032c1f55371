"""The elevation grid that comes with matplotlib."""

import torch

from noether.data.sources.terrain import TerrainConfig, TerrainDataset


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
