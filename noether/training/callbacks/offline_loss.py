"""`offline-loss`: the training loss on a whole held-out data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from noether.config.components import PeriodicDataIteratorCallbackConfig
from noether.config.metric_facts import MetricFacts
from noether.core.callbacks.periodic import PeriodicDataIteratorCallback
from noether.core.callbacks.tracked import beside, precise, weighted
from noether.training.accumulation import Weights, weights_of
from noether.training.trainers.types import TrainerResult, as_loss


class OfflineLossCallbackConfig(PeriodicDataIteratorCallbackConfig):
    """Settings of the `offline-loss` callback."""

    output_patterns: list[str] = Field(
        [], examples=[["pressure"]], description="Also average additional outputs whose name contains one of these."
    )


class OfflineLossCallback(PeriodicDataIteratorCallback):
    """Runs the trainer's `train_step` on a data set without gradients and logs `loss/{dataset_key}/{name}`.

    Batches are put together as if they were one: means are weighted by samples, or by what the losses say that they
    average, and sums are added up. So the size of a batch changes nothing.

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
        """Return the losses and outputs of a batch times their weights, and the weights; a sum has none."""
        samples = float(self.samples_of(batch))
        result = TrainerResult.of(self.trainer.train_step(batch, trainer_model))
        losses = {"total": result.total_loss, **(result.losses_to_log or {})}
        outputs = {
            name: precise(torch.as_tensor(output)).mean()
            for name, output in (result.additional_outputs or {}).items()
            if any(pattern in name for pattern in self.output_patterns)
        }
        return {
            "losses": _sums(losses, weights_of(result, samples)),
            "outputs": _sums(outputs, dict.fromkeys(outputs, samples)),
        }

    def process_results(self, results: dict[str, Any], **_: Any) -> None:
        """Log the means and sums over the data set."""
        key = self.data_name
        losses = {name: _put_together(**parts) for name, parts in results["losses"].items()}
        if "total" not in losses:  # its parts have counts of their own
            losses["total"] = torch.stack(list(losses.values())).sum()
        for name, value in losses.items():
            self.writer.add_scalar(f"loss/{key}/{name}", value)
        for name, parts in results["outputs"].items():
            self.writer.add_scalar(f"{name}/{key}", _put_together(**parts))


def _sums(values: Mapping[str, Any], weights: Weights) -> dict[str, dict[str, Tensor]]:
    sums = {}
    for name, weight in weights.items():
        value = as_loss(name, values[name]).detach()
        sums[name] = (
            {"total": precise(value)}
            if weight is None
            else {"total": (total := weighted(value, weight)), "weight": beside(total, weight)}
        )
    return sums


def _put_together(total: Tensor, weight: Tensor | None = None) -> Tensor:
    return total.sum() if weight is None else total.sum() / weight.sum()
