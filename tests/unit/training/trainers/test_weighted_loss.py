"""One loss function over all fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from noether.errors import TrainingError
from noether.testing import make_trainer
from noether.training.trainers.weighted_loss import WeightedLossTrainer

OUTPUTS = {"p": torch.tensor([1.0, 2.0]), "v": torch.tensor([[0.5], [3.0]])}
TARGETS = {"p_target": torch.tensor([0.0, 0.0]), "v_target": torch.tensor([[1.0], [1.0]])}


def trainer(folder: Path, **settings: Any) -> WeightedLossTrainer:
    defaults = {"field_weights": {"p": 1.0, "v": 0.25}, "target_properties": list(TARGETS)}
    made = make_trainer(folder, **{**defaults, **settings})
    assert isinstance(made, WeightedLossTrainer)
    return made


def test_each_field_is_compared_with_its_target_and_weighted(tmp_path: Path) -> None:
    losses = trainer(tmp_path).loss_compute(OUTPUTS, TARGETS)
    assert losses == {
        "p_loss": F.mse_loss(OUTPUTS["p"], TARGETS["p_target"]),
        "v_loss": 0.25 * F.mse_loss(OUTPUTS["v"], TARGETS["v_target"]),
    }


@pytest.mark.parametrize(
    ("loss_fn", "expected"),
    [
        ("l1", F.l1_loss),
        ({"kind": "huber", "delta": 0.1}, lambda input, target: F.huber_loss(input, target, delta=0.1)),
        ("torch.nn.functional.smooth_l1_loss", F.smooth_l1_loss),
    ],
    ids=["short name", "table with an option", "dotted path"],
)
def test_any_loss_of_torch_can_be_named(loss_fn: Any, expected: Any, tmp_path: Path) -> None:
    found = trainer(tmp_path, loss_fn=loss_fn).loss_compute(OUTPUTS, TARGETS)["p_loss"]
    assert found == expected(input=OUTPUTS["p"], target=TARGETS["p_target"])


def test_a_bare_tensor_stands_for_the_only_field(tmp_path: Path) -> None:
    only = trainer(tmp_path, field_weights={"p": 2.0})
    assert only.loss_compute(OUTPUTS["p"], TARGETS)["p_loss"] == 5.0  # type: ignore[arg-type]  # a bare tensor


@pytest.mark.parametrize(
    ("outputs", "targets", "missing"),
    [
        ({"p": OUTPUTS["p"]}, TARGETS, "found outputs ['p'] and targets ['p_target', 'v_target'], expected 'v'"),
        (OUTPUTS, {"p_target": TARGETS["p_target"]}, "expected 'v_target'"),
        (OUTPUTS["p"], TARGETS, "found outputs one tensor and targets ['p_target', 'v_target'], expected 'p'"),
    ],
    ids=["no output", "no target", "one tensor for two fields"],
)
def test_a_field_without_output_or_target_is_refused_with_what_is_there(
    outputs: Any, targets: Any, missing: str, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError) as caught:
        trainer(tmp_path).loss_compute(outputs, targets)
    assert missing in caught.value.message


def test_without_fields_there_is_nothing_to_train(tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as caught:
        trainer(tmp_path, field_weights={})
    assert "field_weights" in str(caught.value)


def test_a_batch_that_lacks_a_property_is_refused_with_those_it_has(tmp_path: Path) -> None:
    made = make_trainer(tmp_path)
    with pytest.raises(TrainingError) as caught:
        made.train_step({"x": torch.zeros(2, 3)}, torch.nn.Identity())
    assert "found x, expected 'y_target'" in str(caught.value)
