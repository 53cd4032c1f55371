"""Trainers of the documentation."""

import torch

from noether.training.trainers import BaseTrainer, BaseTrainerConfig
from noether.training.trainers.types import LossResult


class MyTrainer(BaseTrainer):
    def __init__(self, trainer_config: BaseTrainerConfig, **kwargs):
        super().__init__(trainer_config, **kwargs)

    def loss_compute(self, forward_output: dict[str, torch.Tensor], targets: dict[str, torch.Tensor]) -> LossResult:
        # compute loss based on model output and targets
        loss = (forward_output["y"] - targets["y_target"]).abs().mean()
        return loss  # noqa: RET504, as it is printed


class WithOutputs(MyTrainer):
    """Returns the tuple of losses and additional outputs that is documented beside the plain loss."""

    def loss_compute(self, forward_output, targets):
        error = (forward_output["y"] - targets["y_target"]).abs()
        outputs = {"surface_pressure_loss": error[:, 0].mean(), "worst_error": error.max()}
        return {"y_loss": error.mean()}, outputs
