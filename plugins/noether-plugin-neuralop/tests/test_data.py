"""The data sets read what the command writes."""

import shutil
from pathlib import Path

import pytest
import torch
from noether_plugin_neuralop.data import BurgersConfig, BurgersDataset, DarcyConfig, DarcyDataset
from safetensors.torch import load_file

from noether.errors import DataError


def darcy(folder: Path, **options) -> DarcyDataset:
    return DarcyDataset(DarcyConfig(kind="darcy", folder=str(folder), **options))


def burgers(folder: Path, **options) -> BurgersDataset:
    return BurgersDataset(BurgersConfig(kind="burgers", folder=str(folder), **options))


def test_a_sample_of_darcy_has_one_channel_on_its_grid(folder: Path):
    coarse, fine = (darcy(folder, split="test", resolution=size)[0] for size in (16, 32))
    assert coarse["permeability"].shape == coarse["pressure_target"].shape == (1, 16, 16)
    assert torch.equal(fine["permeability"][:, ::2, ::2], coarse["permeability"])
    assert {tensor.dtype for tensor in coarse.values()} == {torch.float32}


def test_there_is_no_training_set_on_the_fine_grid(folder: Path):
    with pytest.raises(DataError, match="alone") as error:
        darcy(folder, resolution=32)
    assert "resolution = 16" in str(error.value.hint)


def test_a_window_is_followed_by_its_steps(folder: Path):
    trajectories = load_file(folder / "burgers" / "trajectories.safetensors")["u"].float()
    data = burgers(folder, window=2, steps=1)
    assert len(data) == 10 * 3  # ten of the twelve trajectories are for training; three windows of three frames fit
    assert torch.equal(data[4]["u"], trajectories[1, 1:3])
    assert torch.equal(data[4]["u_next_target"], trajectories[1, 3:4])


def test_trajectories_of_the_test_set_are_in_no_training_sample(folder: Path):
    trajectories = load_file(folder / "burgers" / "trajectories.safetensors")["u"].float()
    whole = burgers(folder, split="test", steps=4)
    assert torch.equal(torch.cat([whole[0]["u"], whole[0]["u_next_target"]]), trajectories[10])


@pytest.mark.parametrize(("options", "hint"), [({"window": 2, "steps": 4}, "steps = 3"), ({"window": 5}, "below 5")])
def test_a_window_that_fits_into_no_trajectory_is_refused(folder: Path, options: dict[str, int], hint: str):
    with pytest.raises(DataError) as error:
        burgers(folder, **options)
    assert hint in str(error.value.hint)


def test_a_missing_folder_is_one_error_with_the_line_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="does not exist") as error:
        darcy(tmp_path / "specs" / ".." / "data")
    assert error.value.hint == "noether neuralop-data data"


def test_a_damaged_file_is_named(folder: Path, tmp_path: Path):
    copy = shutil.copytree(folder, tmp_path / "data")
    path = copy / "burgers" / "trajectories.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"cannot read .*trajectories"):
        burgers(copy)
