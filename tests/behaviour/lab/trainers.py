"""Trainers of the project: every form of result of `loss_compute`, and every point that may be overridden."""

from pathlib import Path

import torch
import torch.nn.functional as F

from noether.config.components import CallBackBaseConfig
from noether.core.callbacks.periodic import PeriodicCallback
from noether.training.trainers import (
    BaseTrainer,
    BaseTrainerConfig,
    TrainerResult,
    WeightedLossTrainer,
    WeightedLossTrainerConfig,
)


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


class Seen(PeriodicCallback):
    """Logs that the trainer has brought it."""

    def periodic_callback(self):
        self.writer.add_scalar("seen/own", 1.0)


class Own(WeightedLossTrainer):
    """Adds a callback, chooses the defaults and their intervals, and records where a run begins and ends."""

    def __init__(self, trainer_config: WeightedLossTrainerConfig, **kwargs):
        super().__init__(trainer_config, **kwargs)

    def get_trainer_callbacks(self, callback_default_args):
        return [Seen(CallBackBaseConfig(id="own", every_n_updates=1), **callback_default_args)]

    def get_default_callback_intervals(self):
        return {"log": {"every_n_epochs": 1}, "track": {"every_n_updates": 4}}

    def get_default_callbacks(self, default_kwargs):
        return [found for found in super().get_default_callbacks(default_kwargs) if found.component.kind != "eta"]

    def call_before_training(self, callbacks):
        Path("points.txt").write_text(f"before {self.update_counter.cur_iteration} {len(callbacks)}\n")
        super().call_before_training(callbacks)

    def call_after_training(self, callbacks):
        super().call_after_training(callbacks)
        with Path("points.txt").open("a") as points:
            points.write(f"after {self.update_counter.cur_iteration} {len(callbacks)}\n")


class StepOfItsOwn(WeightedLossTrainer):
    """Doubles the loss in a train step of its own."""

    def __init__(self, trainer_config: WeightedLossTrainerConfig, **kwargs):
        super().__init__(trainer_config, **kwargs)

    def train_step(self, batch, model):
        output = model(x=batch["x"])["y"]
        mse = F.mse_loss(output, batch["y_target"])
        return TrainerResult(2 * mse, {"mse": mse}, {"output_mean": output.mean()})


class UpdateOfItsOwn(WeightedLossTrainer):
    """Counts the accumulation steps that it does itself."""

    def __init__(self, trainer_config: WeightedLossTrainerConfig, **kwargs):
        super().__init__(trainer_config, **kwargs)

    def update(self, batch, dist_model, model, accumulation_steps_total, accumulation_step, retain_graph=False):
        with Path("points.txt").open("a") as points:
            points.write(f"{accumulation_step} of {accumulation_steps_total}\n")
        return super().update(
            batch, dist_model, model, accumulation_steps_total, accumulation_step, retain_graph=retain_graph
        )


class Wrapped(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, **properties):
        return {name: 2 * output for name, output in self.model(**properties).items()}


class WrapsItsModel(WeightedLossTrainer):
    """Trains the model inside another module."""

    def __init__(self, trainer_config: WeightedLossTrainerConfig, **kwargs):
        super().__init__(trainer_config, **kwargs)

    def wrap_model(self, model):
        return Wrapped(super().wrap_model(model))
