"""`offline-metrics`: accuracy and errors by field on a whole held-out data set, in physical units."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from noether.config.components import PeriodicDataIteratorCallbackConfig
from noether.config.metric_facts import MetricFacts
from noether.core.callbacks.periodic import PeriodicDataIteratorCallback
from noether.errors import TrainingError
from noether.training.metrics import METRICS

MetricName = Literal["accuracy", "mae", "rmse", "r2", "relative-l2"]


class OfflineMetricsCallbackConfig(PeriodicDataIteratorCallbackConfig):
    """Settings of the `offline-metrics` callback."""

    metrics: dict[str, list[MetricName]] = Field(
        examples=[{"pressure": ["rmse", "r2"]}],
        description="Metrics of each field: accuracy, mae, rmse, r2, relative-l2.",
    )


class OfflineMetricsCallback(PeriodicDataIteratorCallback):
    """Compares the model's outputs with the targets of a data set and logs `{metric}/{dataset_key}/{field}`.

    Outputs and targets are mapped back through the transforms of the run before they are compared, so errors have the
    units of the data.

    ```toml
    [[trainer.callbacks]]
    kind = "offline-metrics"
    every_n_epochs = 1
    dataset_key = "test"
    metrics = { elevation = ["rmse", "r2"] }
    ```

    Args:
        callback_config: Interval, data set, and metrics by field.
        **kwargs: What `PeriodicCallback` takes.
    """

    def __init__(self, callback_config: OfflineMetricsCallbackConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self.metrics = callback_config.metrics

    @classmethod
    def produced_metrics(cls, config: OfflineMetricsCallbackConfig, facts: MetricFacts) -> tuple[str, ...]:
        """Return the keys that it logs."""
        key = facts.dataset_key(config.dataset_key)
        return tuple(f"{name}/{key}/{field}" for field, names in config.metrics.items() for name in names)

    def process_data(
        self, batch: dict[str, Tensor], *, trainer_model: torch.nn.Module
    ) -> dict[str, dict[str, dict[str, Tensor]]]:
        """Return the sums of each metric of each field over one batch."""
        outputs = self.trainer.forward(batch, trainer_model)
        return {field: self._sums(field, names, outputs, batch) for field, names in self.metrics.items()}

    def _sums(
        self, field: str, names: list[MetricName], outputs: Any, batch: dict[str, Tensor]
    ) -> dict[str, dict[str, Tensor]]:
        target_name = f"{field}_target"
        if isinstance(outputs, Tensor) and len(self.metrics) == 1:
            outputs = {field: outputs}
        if field not in outputs or target_name not in batch:
            raise TrainingError(
                f"'{self.id}' compares the output '{field}' with '{target_name}': the model returned "
                f"{sorted(outputs)}, a batch has {sorted(batch)}",
                hint="name fields that the model returns under `metrics`",
            )
        prediction = self.data_container.inverse(target_name, outputs[field].float())
        target = self.data_container.inverse(target_name, batch[target_name])
        return {name: METRICS[name].sums(prediction, target) for name in names}

    def process_results(self, results: dict[str, dict[str, dict[str, Tensor]]], **_: Any) -> None:
        """Log each metric of each field."""
        key = self.data_name
        for field, metrics in results.items():
            for name, batches in metrics.items():
                sums = {part: values.sum() for part, values in batches.items()}
                self.writer.add_scalar(f"{name}/{key}/{field}", METRICS[name].value(sums))
