"""Neural operators: complex weights, factorised ones, and a `state_dict` that holds the model's options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("neuralop", reason="needs neuraloperator: pip install --no-deps -r tests/packages/requirements.txt")
pytestmark = [pytest.mark.packages, pytest.mark.filterwarnings("ignore")]

SIZES = {"n_modes": [4, 4], "in_channels": 1, "out_channels": 1, "hidden_channels": 4, "n_layers": 1}
TRAINER = {"forward_properties": ["x"], "target_properties": ["y_target"], "field_weights": {"y": 1.0}}


def grids() -> dict[str, Any]:
    x = np.random.default_rng(0).normal(size=(12, 1, 8, 8)).astype("float32")
    return {"x": x, "y_target": np.roll(x, 1, axis=2) * 0.5}


@pytest.mark.parametrize("kind", ["FNO", "TFNO"])
def test_it_trains_resumes_and_is_evaluated(trained: Any, kind: str) -> None:
    checkpoint = trained({"kind": f"neuralop.models.{kind}", **SIZES}, grids(), TRAINER, "--trust", "neuralop")
    state = checkpoint.tensors("model.safetensors")
    assert any(isinstance(value, torch.Tensor) and value.is_complex() for value in state.values())
    assert state["_metadata"]["_name"] == kind
