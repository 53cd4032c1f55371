"""`offline-metrics`: accuracy and errors by field on a whole held-out data set, in physical units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from noether.config.components import PeriodicDataIteratorCallbackConfig
from noether.config.metric_facts import MetricFacts
from noether.core.callbacks.periodic import PeriodicDataIteratorCallback
from noether.core.callbacks.tracked import precise
from noether.data.batches import properties_of
from noether.errors import TrainingError


class SummedMetric(ABC):
    """A metric of a whole data set as a function of sums over its samples."""

    @staticmethod
    @abstractmethod
    def sums(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the sums over one batch."""

    @staticmethod
    @abstractmethod
    def value(sums: dict[str, Tensor]) -> Tensor:
        """Return the metric of all batches, whose sums are added up."""


def _count(values: Tensor) -> Tensor:
    return torch.tensor(values.numel(), dtype=torch.float64)


def _names(values: Any) -> list[str] | str:
    return sorted(values) if isinstance(values, Mapping) else f"of type {type(values).__name__}"


def _error(prediction: Tensor, target: Tensor) -> Tensor:
    _refuse_broadcasting(prediction, target)
    return precise(prediction) - precise(target)


def _refuse_broadcasting(prediction: Tensor, target: Tensor) -> None:
    """Refuse different shapes: (batch, 1) and (batch,) would compare every sample with every other."""
    if prediction.shape != target.shape:
        raise TrainingError(
            f"wrong shape of a prediction: found {tuple(prediction.shape)}, expected {tuple(target.shape)} as of its "
            "target",
            hint="return the shape of the target from the model, for example through `out_features`",
        )


class Accuracy(SummedMetric):
    """Share of samples whose largest logit, along dimension 1, is the target class."""

    @staticmethod
    def sums(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        predicted = prediction.argmax(dim=1)
        _refuse_broadcasting(predicted, target)
        hits = predicted == target
        return {"hits": precise(hits.sum()), "count": _count(hits)}

    @staticmethod
    def value(sums: dict[str, Tensor]) -> Tensor:
        return sums["hits"] / sums["count"]


class MeanAbsoluteError(SummedMetric):
    """Mean of `|prediction - target|` over all entries."""

    @staticmethod
    def sums(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        error = _error(prediction, target).abs()
        return {"absolute": error.sum(), "count": _count(error)}

    @staticmethod
    def value(sums: dict[str, Tensor]) -> Tensor:
        return sums["absolute"] / sums["count"]


class RootMeanSquareError(SummedMetric):
    """Root of the mean squared difference over all entries."""

    @staticmethod
    def sums(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        error = _error(prediction, target).square()
        return {"squared": error.sum(), "count": _count(error)}

    @staticmethod
    def value(sums: dict[str, Tensor]) -> Tensor:
        return (sums["squared"] / sums["count"]).sqrt()


class R2(SummedMetric):
    """Coefficient of determination: 1 - squared error / squared deviation of the targets from their mean."""

    @staticmethod
    def sums(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        target = precise(target)
        return {
            "squared": _error(prediction, target).square().sum(),
            "target": target.sum(),
            "target_squared": target.square().sum(),
            "count": _count(target),
        }

    @staticmethod
    def value(sums: dict[str, Tensor]) -> Tensor:
        deviation = sums["target_squared"] - sums["target"].square() / sums["count"]
        deviation = deviation.clamp(min=0)  # rounding must not make a perfect score of constant targets
        return 1 - sums["squared"] / deviation


class RelativeL2(SummedMetric):
    """Mean over samples of the Euclidean norm of the error divided by that of the target."""

    @staticmethod
    def sums(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        error = _error(prediction, target).reshape(len(target), -1).norm(dim=1)
        ratios = error / precise(target).reshape(len(target), -1).norm(dim=1)
        return {"ratios": ratios.sum(), "count": _count(ratios)}

    @staticmethod
    def value(sums: dict[str, Tensor]) -> Tensor:
        return sums["ratios"] / sums["count"]


METRICS: dict[str, type[SummedMetric]] = {
    "accuracy": Accuracy,
    "mae": MeanAbsoluteError,
    "rmse": RootMeanSquareError,
    "r2": R2,
    "relative-l2": RelativeL2,
}

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
        **kwargs: Arguments of `PeriodicCallback`.
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
        properties = properties_of(batch)
        return {field: self._sums(field, names, outputs, properties) for field, names in self.metrics.items()}

    def _sums(
        self, field: str, names: list[MetricName], outputs: Any, batch: Mapping[str, Tensor]
    ) -> dict[str, dict[str, Tensor]]:
        target_name = f"{field}_target"
        if isinstance(outputs, Tensor) and len(self.metrics) == 1:
            outputs = {field: outputs}
        if not isinstance(outputs, Mapping) or field not in outputs or target_name not in batch:
            raise TrainingError(
                f"callback '{self.id}': missing output or target: found outputs {_names(outputs)} and properties "
                f"{_names(batch)}, expected output '{field}' and property '{target_name}'",
                hint="list fields that the model returns under `metrics`",
            )
        prediction = self.in_units(target_name, outputs[field].float())
        target = self.in_units(target_name, batch[target_name])
        return {name: METRICS[name].sums(prediction, target) for name in names}

    def process_results(self, results: dict[str, dict[str, dict[str, Tensor]]], **_: Any) -> None:
        """Log each metric of each field."""
        key = self.data_name
        for field, metrics in results.items():
            for name, batches in metrics.items():
                sums = {part: values.sum() for part, values in batches.items()}
                self.writer.add_scalar(f"{name}/{key}/{field}", METRICS[name].value(sums))
