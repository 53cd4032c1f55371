"""`offline-loss`: the training loss on a whole held-out data set."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from noether.config.components import PeriodicDataIteratorCallbackConfig
from noether.config.metric_facts import MetricFacts
from noether.core.callbacks.periodic import PeriodicDataIteratorCallback
from noether.core.callbacks.tracked import precise


class OfflineLossCallbackConfig(PeriodicDataIteratorCallbackConfig):
    """Settings of the `offline-loss` callback."""

    output_patterns: list[str] = Field(
        [], examples=[["pressure"]], description="Also average additional outputs whose name contains one of these."
    )


class OfflineLossCallback(PeriodicDataIteratorCallback):
    """Runs the trainer's `train_step` on a data set without gradients and logs `loss/{dataset_key}/{name}`.

    Means are weighted by samples, so that a smaller last batch does not count more than its samples.

    ```toml
    [[trainer.callbacks]]
    kind = "offline-loss"
    every_n_epochs = 1
    dataset_key = "test"
    ```

    Args:
        callback_config: Interval and data set.
        **kwargs: Arguments of `PeriodicCallback`.
    """

    def __init__(self, callback_config: OfflineLossCallbackConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self.output_patterns = callback_config.output_patterns

    @classmethod
    def produced_metrics(cls, config: OfflineLossCallbackConfig, facts: MetricFacts) -> tuple[str, ...]:
        """Return the keys that it logs."""
        key = facts.dataset_key(config.dataset_key)
        losses = tuple(f"loss/{key}/{name}" for name in facts.loss_patterns)
        return losses + tuple(f"*{pattern}*/{key}" for pattern in config.output_patterns)

    def process_data(self, batch: dict[str, Tensor], *, trainer_model: torch.nn.Module) -> dict[str, Any]:
        """Return each loss of a batch times its samples, and the number of samples."""
        samples = self.samples_of(batch)
        result = self.trainer.train_step(batch, trainer_model)
        key = self.data_name
        values = {f"loss/{key}/{name}": loss for name, loss in (result.losses_to_log or {}).items()}
        values[f"loss/{key}/total"] = result.total_loss
        for name, output in (result.additional_outputs or {}).items():
            if any(pattern in name for pattern in self.output_patterns):
                values[f"{name}/{key}"] = output.float().mean()
        return {"samples": samples, "sums": {name: precise(value.detach()) * samples for name, value in values.items()}}

    def process_results(self, results: dict[str, Any], **_: Any) -> None:
        """Log the means over the data set."""
        samples = int(results["samples"].sum())
        for name, sums in results["sums"].items():
            self.writer.add_scalar(name, sums.sum() / samples)
