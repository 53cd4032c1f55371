"""Sources of weights: a file, a checkpoint, a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from noether.checkpoint.paths import PathProvider
from noether.checkpoint.state import CheckpointState
from noether.checkpoint.writer import CheckpointWriter
from noether.core.initializers.weights import read_weights, run_below
from noether.errors import CheckpointError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with two checkpoints, whose weights are tied."""
    paths = PathProvider(tmp_path / "runs", "tiny-1")
    writer = CheckpointWriter(paths)
    parts = ("optimizer_tensors", "optimizer_values", "trainer", "callbacks", "data")
    nothing: dict[str, Any] = {part: {} for part in parts}
    for update in (2, 4):
        weight = torch.tensor([float(update)])
        writer.save("best_model.loss" if update == 2 else "last")
        writer.commit(CheckpointState(0, update, update, model={"a": weight, "b": weight}, ranks=[{}], **nothing))
    return paths.run_path


@pytest.mark.parametrize(
    ("place", "checkpoint", "weight"),
    [
        ("", "latest", 4),
        ("", "best_model.loss", 2),
        ("checkpoints/step-000000000002", "latest", 2),
        ("checkpoints/step-000000000002/model.safetensors", "latest", 2),
    ],
)
def test_weights_come_from_a_run_a_step_or_a_file_of_a_step(
    place: str, checkpoint: str, weight: float, run: Path
) -> None:
    weights = read_weights(run / place, checkpoint)
    assert weights.tensors["a"] is weights.tensors["b"]
    assert float(weights.tensors["a"]) == weight
    assert weights.source.name == "model.safetensors"


def test_weights_come_from_a_file_of_anywhere(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "weights.safetensors")
    assert read_weights(tmp_path / "weights.safetensors", "latest").tensors == {"a": torch.ones(1)}


@pytest.mark.parametrize("place", ["checkpoints/step-000000000002", "checkpoints/step-000000000002/model.safetensors"])
def test_a_damaged_file_of_a_step_is_not_loaded(place: str, run: Path) -> None:
    victim = run / "checkpoints/step-000000000002/model.safetensors"
    victim.write_bytes(victim.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(CheckpointError) as error:
        read_weights(run / place, "latest")
    assert "model.safetensors" in error.value.message


def test_a_file_that_is_not_safetensors_is_reported(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError) as error:
        read_weights(tmp_path / "weights.safetensors", "latest")
    assert str(tmp_path / "weights.safetensors") in error.value.message


def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError) as error:
        read_weights(tmp_path / "weights.pt", "latest")
    assert str(tmp_path / "weights.pt") in error.value.message
    assert "torch.load('weights.pt', weights_only=True), 'weights.safetensors')" in str(error.value.hint)


@pytest.mark.parametrize(("place", "found"), [("nowhere", "does not exist"), ("", "has no checkpoints")])
def test_a_place_without_weights_is_reported(place: str, found: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        read_weights(tmp_path / place, "latest")
    assert f"{tmp_path / place} {found}" in error.value.message


@pytest.mark.parametrize("run_id", ["tiny-2", "../runs/tiny-1", "", "."])
def test_an_unknown_run_is_reported_with_the_existing_ones(run_id: str, run: Path) -> None:
    assert run_below(run.parent, "tiny-1") == run
    with pytest.raises(CheckpointError) as error:
        run_below(run.parent, run_id)
    assert repr(run_id) in error.value.message
    assert "tiny-1" in str(error.value.hint)
