"""Trainers of the project: every form that `loss_compute` may return."""

import torch.nn.functional as F

from noether.core.schemas.callbacks import CallBackBaseConfig
from noether.training.trainers import BaseTrainer, BaseTrainerConfig


class PlainConfig(BaseTrainerConfig[CallBackBaseConfig]):
    form: str = "tensor"


class Plain(BaseTrainer):
    def __init__(self, trainer_config: PlainConfig, **kwargs):
        super().__init__(trainer_config, **kwargs)
        self.form = trainer_config.form

    def loss_compute(self, forward_output, targets):
        output, target = forward_output["y"], targets["y_target"]
        mse, l1 = F.mse_loss(output, target), F.l1_loss(output, target)
        return {
            "tensor": mse,
            "list": [mse, l1],
            "dict": {"mse": mse, "l1": l1},
            "tuple": (mse, {"spread": output.std()}),
            "empty": {},
        }[self.form]
