"""A rollout calls the model on its own predictions, in the units of the data."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import noether
from noether.errors import TrainingError
from noether.testing import tiny_spec

DECAY = torch.exp(torch.tensor(-0.1))  # of a frame to the next, as in conftest.py


class Exact(nn.Module):
    """Returns the next frames, of a window of any length."""

    def __init__(self, frames: int = 1, factor: float = float(DECAY)) -> None:
        super().__init__()
        self.frames, self.factor = frames, factor
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, u: Tensor) -> Tensor:
        assert u.shape[1] == 2, "the window keeps its length"
        return torch.cat([u[:, -1:] * self.factor ** (step + 1) for step in range(self.frames)], dim=1)


def rolled_out(folder: Path, model: dict[str, Any], **tables: Any) -> dict[str, float]:
    data = {"part": None, "kind": "burgers", "folder": str(folder), "window": 2}
    trajectories = {**data, "split": "test", "steps": 3}
    callback = {"kind": "rollout", "every_n_epochs": 1, "dataset_key": "test", "field": "u_next", "input": "u"}
    properties = {"forward_properties": ["u"], "target_properties": ["u_next_target"]}
    trainer = {**properties, "field_weights": {"y": None, "u_next": 1.0}, "max_updates": 0, "callbacks": [callback]}
    changes = {"datasets": {"train": data, "test": trajectories}, "trainer": trainer}
    changes["model"] = {"hidden": None, "out_features": None, **model}
    outcome = noether.run(tiny_spec(**changes, output=str(folder / "runs"), **tables), quiet=True)
    if outcome.error is not None:
        raise outcome.error
    return outcome.metrics


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_an_exact_model_has_no_error_whatever_it_predicts_at_once(folder: Path, frames: int):
    metrics = rolled_out(folder, {"kind": Exact, "frames": frames})
    assert metrics["rollout/test/u_next"] == pytest.approx(0, abs=1e-6)


def test_errors_grow_with_each_call_of_the_model(folder: Path):
    metrics = rolled_out(folder, {"kind": Exact, "factor": 1.0})
    truth = DECAY ** torch.arange(1, 4)  # in units of the last frame of the window, which stays
    assert metrics["rollout/test/u_next"] == pytest.approx(float((1 - truth).norm() / truth.norm()), rel=1e-4)
    assert metrics["rollout_end/test/u_next"] == pytest.approx(float((1 - truth[-1]) / truth[-1]), rel=1e-4)


def test_predictions_in_other_units_than_inputs_are_refused(folder: Path):
    normalize = {"kind": "normalize", "properties": ["u_next_target"], "per": "property"}
    with pytest.raises(TrainingError, match="transformed differently"):
        rolled_out(folder, {"kind": Exact}, transforms=[normalize])


class Coarse(Exact):
    """Predicts on half of the grid."""

    def forward(self, u: Tensor) -> Tensor:
        return super().forward(u)[..., ::2]


def test_predictions_on_another_grid_are_refused(folder: Path):
    with pytest.raises(TrainingError, match="expected the grid"):
        rolled_out(folder, {"kind": Coarse})
