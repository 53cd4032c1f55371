"""Comparisons of outputs and targets that broadcast."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from noether.core.models.base import ModelBase
from noether.errors import TrainingError
from noether.testing import make_trainer
from noether.training.trainers.types import NoBroadcasting, TrainerResult

OUTPUT, TARGET = torch.ones(4, 1, requires_grad=True), torch.ones(4)


def watched(loss: Callable[[Tensor, Tensor], Any], output: Tensor = OUTPUT, target: Tensor = TARGET) -> None:
    with NoBroadcasting(output, {"y_target": target}):
        loss(output, target)


@pytest.mark.parametrize(
    "loss",
    [
        lambda o, t: (o - t).square().mean(),
        lambda o, t: (t - o.log()).abs(),
        lambda o, t: t * o.log(),
        lambda o, t: (2 * o - t.flatten()) / t,
        lambda o, t: F.mse_loss(o, t),
        lambda o, t: torch.nn.L1Loss()(t, o),
        lambda o, t: F.huber_loss(input=o, target=2 * t),
    ],
)
def test_a_comparison_of_every_sample_with_every_other_is_refused(loss: Callable[[Tensor, Tensor], Any]) -> None:
    with pytest.raises(TrainingError, match=r"\(4, 4\)"):
        watched(loss)


@pytest.mark.parametrize(
    "loss",
    [
        lambda o, t: F.mse_loss(o.squeeze(-1), t),
        lambda o, t: (o - t[:, None]) / t.mean(),
        lambda o, t: (t[:, None] - t[None]) * 2,
        lambda o, t: t[:, None] * torch.ones(3),
        lambda o, t: (o[:, None] - t[None, :, None]).abs(),  # all pairs, one dimension more
        lambda o, t: F.cross_entropy(o.expand(4, 4), t.long()),
    ],
)
def test_equal_shapes_constants_and_pairs_that_are_asked_for_are_taken(loss: Callable[[Tensor, Tensor], Any]) -> None:
    watched(loss)


def test_a_trainer_watches_its_first_update_alone(tmp_path: Path) -> None:
    class Wide(ModelBase):
        def __init__(self) -> None:
            super().__init__()
            self.shift = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return x.sum(1) + self.shift

    trainer, model = make_trainer(tmp_path), Wide()
    trainer.loss_compute = lambda output, targets: (output - targets["y_target"]).square().mean()  # type: ignore[method-assign, assignment, return-value]
    batch = {"x": torch.ones(4, 2), "y_target": torch.ones(4, 1)}
    with torch.no_grad():
        assert isinstance(trainer.train_step(batch, model), TrainerResult)  # an evaluation cannot tell
    with pytest.raises(TrainingError):
        trainer.train_step(batch, model)
    trainer._has_compared = True
    assert isinstance(trainer.train_step(batch, model), TrainerResult)
