"""A saved state is read back with each byte checked, and only the requested files are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from noether.checkpoint.manifest import FileRecord
from noether.checkpoint.paths import PathProvider
from noether.checkpoint.saved import SavedCheckpoint
from noether.checkpoint.state import CheckpointState
from noether.checkpoint.writer import CheckpointWriter
from noether.errors import CheckpointError

TIED = torch.arange(4.0)
STATE: dict[str, Any] = {
    "epoch": 1,
    "update": 6,
    "sample": 24,
    "model": {"encoder.weight": TIED, "decoder.weight": TIED, "decoder.bias": torch.ones(2, dtype=torch.float64)},
    "optimizer_tensors": {
        "model/encoder.weight/exp_avg": torch.ones(4),
        "model/encoder.weight/step": torch.tensor(6.0),
    },
    "optimizer_values": {"model": {"groups": [{"lr": 0.1, "betas": (0.9, 0.99)}], "state": {}}},
    "trainer": {"update": 6, "scale": torch.tensor(2.0)},
    "callbacks": {"best": {"value": float("inf")}, "ema/0.9/best": {"seen": {3: torch.ones(1)}}},
    "data": {"transforms/0/mean": torch.zeros(3)},
    "ranks": [{"torch": "00ff"}],
    "callback_files": {"ema": {"0.9": {"encoder.weight": torch.zeros(4)}}},
}


def saved(folder: Path, request: dict[str, Any] | None = None, **parts: Any) -> SavedCheckpoint:
    writer = CheckpointWriter(PathProvider(folder, "run"))
    writer.save(**(request or {}))
    return SavedCheckpoint.open(writer.commit(CheckpointState(**{**STATE, **parts})))


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return type(one) is type(other) and one == other


def test_the_whole_state_comes_back(tmp_path: Path) -> None:
    state = saved(tmp_path).state()
    for part, wanted in STATE.items():
        if part != "callback_files":
            assert equal(wanted, getattr(state, part)), part


def test_tied_weights_come_back_as_one_tensor(tmp_path: Path) -> None:
    weights = saved(tmp_path).tensors("model.safetensors")
    assert weights["encoder.weight"] is weights["decoder.weight"]


def test_a_state_without_any_tensors_comes_back(tmp_path: Path) -> None:
    state = saved(tmp_path, model={}, optimizer_tensors={}, data={}, callbacks={}, callback_files={}).state()
    assert (state.model, state.optimizer_tensors, state.data, state.callbacks) == ({}, {}, {}, {})


def test_weights_are_read_though_another_file_is_damaged(tmp_path: Path) -> None:
    step = saved(tmp_path)
    (step.folder / "optimizer.safetensors").write_bytes(b"")
    (step.folder / "trainer.json").unlink()
    assert equal(STATE["model"], step.tensors("model.safetensors"))


@pytest.mark.parametrize("damaged", ["model.safetensors", "callbacks/ema/0.9.safetensors", "rank-00000.json"])
def test_a_whole_state_is_not_returned_where_any_file_is_damaged(damaged: str, tmp_path: Path) -> None:
    step = saved(tmp_path)
    data = bytearray((step.folder / damaged).read_bytes())
    data[-1] ^= 1
    (step.folder / damaged).write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        step.state()
    assert damaged in str(caught.value)


def test_a_file_that_the_checkpoint_lacks_is_reported_with_its_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        saved(tmp_path).tensors("weights.pt")
    assert "weights.pt" in str(caught.value)
    assert "model.safetensors" in str(caught.value)


@pytest.mark.parametrize("request_", [{"save_optim": False}, {"model_names": ["encoder"]}])
def test_no_run_can_go_on_from_a_partial_save(request_: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        saved(tmp_path, request_).state()
    assert "initializer" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"), [("trainer.json", b"{"), ("model.safetensors", b"\x08\0\0\0\0\0\0\0{}      ")]
)
def test_a_file_that_was_saved_wrong_is_an_error_and_no_crash(name: str, content: bytes, tmp_path: Path) -> None:
    step = saved(tmp_path)
    (step.folder / name).write_bytes(content)
    files = {**step.manifest.files, name: FileRecord.of(content)}
    with pytest.raises(CheckpointError) as caught:
        SavedCheckpoint(step.folder, replace(step.manifest, files=files)).state()
    assert name in str(caught.value)
