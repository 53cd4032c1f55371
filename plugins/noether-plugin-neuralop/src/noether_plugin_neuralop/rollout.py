"""The callback `rollout`: a model of one step, called on its own predictions."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from noether.core.callbacks import PeriodicDataIteratorCallback, PeriodicDataIteratorCallbackConfig
from noether.errors import TrainingError
from noether_plugin_neuralop.fields import prediction_of, require


class RolloutConfig(PeriodicDataIteratorCallbackConfig):
    """Options of `rollout`, beside its interval and its data set."""

    field: str = Field(
        examples=["u_next"], description="Field that the model predicts; its target are all later frames."
    )
    input: str = Field(examples=["u"], description="Property with the frames that the model is given first.")


class RolloutCallback(PeriodicDataIteratorCallback):
    """Lets the model predict a whole trajectory from its first frames, and logs its relative L2 error.

    The first dimension of `input` and of the target counts frames (or frames times channels). Predicted frames take the
    place of the oldest ones until there are as many as in the target. It logs `rollout/{dataset_key}/{field}`, the mean
    over samples of the norm of the error of all frames over the norm of the target, and
    `rollout_end/{dataset_key}/{field}`, the same of the last call of the model alone. Errors are in the units of the
    data; a model whose input and target are transformed differently is refused.

    Args:
        callback_config: Interval, data set, field and input.
        **kwargs: Arguments of `PeriodicCallback`.
    """

    def __init__(self, callback_config: RolloutConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self.field, self.input = callback_config.field, callback_config.input
        self.target = f"{self.field}_target"

    @classmethod
    def produced_metrics(cls, config: RolloutConfig, facts: Any) -> tuple[str, ...]:
        """Return the keys that it logs."""
        place = f"{facts.dataset_key(config.dataset_key)}/{config.field}"
        return (f"rollout/{place}", f"rollout_end/{place}")

    def process_data(self, batch: dict[str, Tensor], *, trainer_model: Any) -> dict[str, Tensor]:
        """Return both errors of each sample."""
        require(batch, self.input, self.target, callback=self.id)
        self._require_one_unit(batch)
        predicted, last = self.predict(batch, trainer_model)
        truth = batch[self.target]
        predicted, truth = (self.in_units(self.target, frames) for frames in (predicted, truth))
        return {
            "all": relative_l2(predicted, truth),
            "end": relative_l2(predicted[:, -last:], truth[:, -last:]),
        }

    def predict(self, batch: dict[str, Tensor], model: Any) -> tuple[Tensor, int]:
        """Return the predicted frames, of the shape of the target, and the frames of the last call among them."""
        window, wanted = batch[self.input], batch[self.target].shape[1]
        frames: list[Tensor] = []
        while (missing := wanted - sum(part.shape[1] for part in frames)) > 0:
            output = self.trainer.forward({**batch, self.input: window}, model)
            step = prediction_of(output, self.field, self.id)
            if step.shape[2:] != window.shape[2:]:
                raise TrainingError(
                    f"callback '{self.id}': wrong shape of '{self.field}': found {tuple(step.shape)}, expected the "
                    f"grid {tuple(window.shape[2:])} of '{self.input}', so that it can be the next input"
                )
            frames.append(step[:, :missing])
            window = torch.cat([window, step], dim=1)[:, -window.shape[1] :]
        return torch.cat(frames, dim=1), frames[-1].shape[1]

    def _require_one_unit(self, batch: dict[str, Tensor]) -> None:
        """Refuse predictions that mean something else as inputs."""
        probe = torch.stack([torch.zeros_like(batch[self.input]), torch.ones_like(batch[self.input])]).flatten(0, 1)
        try:
            equal = torch.equal(self.in_units(self.input, probe), self.in_units(self.target, probe))
        except RuntimeError:  # statistics by channel, of different numbers of channels
            equal = False
        if not equal:
            raise TrainingError(
                f"callback '{self.id}': '{self.input}' and '{self.target}' are transformed differently, so that a "
                "prediction is no input",
                hint="leave both out of `normalize`, or transform both in the same way",
            )

    def process_results(self, results: dict[str, Tensor], **_: Any) -> None:
        """Log the means over all samples."""
        for name, key in (("all", "rollout"), ("end", "rollout_end")):
            self.writer.add_scalar(f"{key}/{self.data_name}/{self.field}", results[name].mean())


def relative_l2(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the norm of the error over the norm of the target, by sample."""
    return (prediction - target).flatten(1).norm(dim=1) / target.flatten(1).norm(dim=1)
