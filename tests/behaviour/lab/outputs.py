"""A trainer that returns outputs beside its loss, and a callback that records them."""

import json
from pathlib import Path

import torch.nn.functional as F

from noether.config.components import CallBackBaseConfig
from noether.core.callbacks.periodic import PeriodicCallback
from noether.training.trainers import BaseTrainer, BaseTrainerConfig


class TalkativeConfig(BaseTrainerConfig[CallBackBaseConfig]):
    """No fields of its own."""


class Talkative(BaseTrainer):
    """Returns the loss by output column and the residuals."""

    def __init__(self, trainer_config: TalkativeConfig, **kwargs):
        super().__init__(trainer_config, **kwargs)

    def loss_compute(self, forward_output, targets):
        residuals = forward_output["y"] - targets["y_target"]
        first, second = residuals.square().mean(dim=0)
        outputs = {"first_loss": first, "second_loss": second, "residuals": residuals}
        return F.mse_loss(forward_output["y"], targets["y_target"]), outputs


class Notes(PeriodicCallback):
    """Notes the outputs of every accumulation step, a line each."""

    def track_after_accumulation_step(self, *, update_outputs):
        with Path("outputs.txt").open("a") as notes:
            notes.write(json.dumps({name: output.tolist() for name, output in update_outputs.items()}) + "\n")
