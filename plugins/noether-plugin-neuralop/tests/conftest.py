"""Synthetic fields in the layout of the data, so that no test needs a network."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `noether neuralop-data` fills it, with few samples."""
    path = tmp_path_factory.mktemp("data")
    (path / "darcy").mkdir()
    (path / "burgers").mkdir()
    generator = torch.Generator().manual_seed(0)
    fine = torch.rand(4, 32, 32, generator=generator) > 0.5
    darcy = {
        "train_16": torch.rand(12, 16, 16, generator=generator) > 0.5,
        "test_16": fine[:, ::2, ::2],
        "test_32": fine,
    }
    for name, x in darcy.items():
        tensors = {"x": x.contiguous(), "y": 1 + x.float().cumsum(-1).contiguous() / x.shape[-1]}
        save_file(tensors, path / "darcy" / f"{name}.safetensors")
    place = torch.arange(16, dtype=torch.float64) / 16
    phase = torch.rand(12, 1, 1, generator=generator, dtype=torch.float64)
    decay = torch.exp(-0.1 * torch.arange(5, dtype=torch.float64)).view(1, 5, 1)
    trajectories = {
        "u": decay * torch.sin(2 * torch.pi * (place + phase)),
        "viscosity": torch.full((1, 1), 0.01).double(),
    }
    save_file(trajectories, path / "burgers" / "trajectories.safetensors")
    return path
