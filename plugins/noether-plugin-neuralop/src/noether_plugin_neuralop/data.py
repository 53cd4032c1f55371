"""The data sets `darcy` and `burgers`, from the folder that `noether neuralop-data` has filled."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from noether.config.components import DatasetBaseConfig
from noether.data.dataset import InMemoryDataset
from noether.errors import DataError

TRAINING_TRAJECTORIES = 1000
"""Of the 1,200 trajectories of Burgers' equation; the others are the test set."""
FILES = {
    "darcy/train_16.safetensors": ("x", "y"),
    "darcy/test_16.safetensors": ("x", "y"),
    "darcy/test_32.safetensors": ("x", "y"),
    "burgers/trajectories.safetensors": ("u", "viscosity"),
}
"""Files below the folder, with the names of their tensors."""


class _NeuralopDataConfig(DatasetBaseConfig):
    """Options of both data sets."""

    path_fields: ClassVar[tuple[str, ...]] = ("folder",)

    folder: str = Field(examples=["data"], description="The folder that `noether neuralop-data FOLDER` has filled.")
    split: Literal["train", "test"] = Field("train", description="The training set, or the samples that are held out.")


class DarcyConfig(_NeuralopDataConfig):
    """Options of `darcy`."""

    resolution: Literal[16, 32] = Field(
        16,
        description="Points along an edge of the grid. There are 1,000 fields to train on, at 16; the same 50 to "
        "test on at both, so that 32 tests a resolution that training has not seen.",
    )


class DarcyDataset(InMemoryDataset):
    """Darcy flow through a medium of two materials: its pressure, by their places (Li et al. 2021).

    A sample has `permeability`, float32 of shape (1, n, n), 1 where the medium is the permeable material and 0
    elsewhere; and `pressure_target`, float32 of the same shape.

    Args:
        dataset_config: The folder, and the part of the data.

    Raises:
        DataError: if the folder does not hold the data, or they are damaged.
    """

    @classmethod
    def known_properties(cls, config: DarcyConfig) -> tuple[str, ...]:
        """Return the properties of every sample."""
        return ("permeability", "pressure_target")

    def __init__(self, dataset_config: DarcyConfig) -> None:
        split, resolution = dataset_config.split, dataset_config.resolution
        if (split, resolution) == ("train", 32):
            raise DataError(
                "no training set of Darcy flow at resolution 32: found one at 16 alone",
                hint='write resolution = 16, or split = "test"',
            )
        fields = _tensors(dataset_config.folder, f"darcy/{split}_{resolution}.safetensors")
        x, y = (fields[name].to(torch.float32).unsqueeze(1) for name in ("x", "y"))
        super().__init__({"permeability": x, "pressure_target": y}, dataset_config)


class BurgersConfig(_NeuralopDataConfig):
    """Options of `burgers`."""

    window: int = Field(1, ge=1, description="Frames that the model is given: the channels of `u`.")
    steps: int = Field(
        1, ge=1, description="Frames after them that it has to predict: the channels of `u_next_target`."
    )


class BurgersDataset(InMemoryDataset):
    """Trajectories of the viscous Burgers' equation, periodic in space, cut into windows of consecutive frames.

    A trajectory has 17 frames of 16 points. A sample has `u`, float32 of shape (window, 16), and `u_next_target`,
    float32 of shape (steps, 16): the frames that follow. There is a sample for each window that fits into a trajectory;
    for the trajectories as a whole, as the callback `rollout` takes them, choose window + steps = 17.

    Args:
        dataset_config: The folder, the part of the data, and the windows.

    Raises:
        DataError: if the folder does not hold the data, they are damaged, or no window fits.
    """

    @classmethod
    def known_properties(cls, config: BurgersConfig) -> tuple[str, ...]:
        """Return the properties of every sample."""
        return ("u", "u_next_target")

    def __init__(self, dataset_config: BurgersConfig) -> None:
        window, steps = dataset_config.window, dataset_config.steps
        all_of_them = _tensors(dataset_config.folder, "burgers/trajectories.safetensors")["u"].to(torch.float32)
        trained = min(TRAINING_TRAJECTORIES, len(all_of_them) * 5 // 6)
        chosen = all_of_them[:trained] if dataset_config.split == "train" else all_of_them[trained:]
        frames = chosen.shape[1]
        if window + steps > frames:
            raise DataError(
                f"windows longer than a trajectory: found window + steps = {window + steps}, expected at most {frames}",
                hint=f"write steps = {frames - window}" if window < frames else f"choose a window below {frames}",
            )
        samples = windows(chosen, window + steps)
        super().__init__({"u": samples[:, :window], "u_next_target": samples[:, window:]}, dataset_config)


def windows(trajectories: Tensor, length: int) -> Tensor:
    """Return each window of consecutive frames, of shape (trajectories * windows, length, *grid).

    Args:
        trajectories: Tensor of shape (trajectories, frames, *grid).
        length: Frames of a window.
    """
    return trajectories.unfold(1, length, 1).movedim(-1, 2).flatten(0, 1)


def _tensors(folder: str, name: str) -> dict[str, Tensor]:
    folder = os.path.normpath(folder)
    path = Path(folder) / name
    hint = f"noether neuralop-data {_short(Path(folder))}"
    try:
        found = load_file(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: the data have to be fetched first", hint=hint) from error
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot read {path}: {error}", hint=hint) from error
    if lacking := [tensor for tensor in FILES[name] if tensor not in found]:
        raise DataError(f"{path} lacks {', '.join(lacking)}: found {', '.join(found) or 'nothing'}", hint=hint)
    return found


def _short(folder: Path) -> Path:
    """Return a folder as it is typed from the working folder."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
