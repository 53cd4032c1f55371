"""Callbacks that evaluate the model on a whole data set, with the trainer's train step."""

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
from noether.core.callbacks.tracked import beside, precise, weighted
from noether.data.collators import MASK, of_only_field, properties_of
from noether.errors import TrainingError
from noether.kernel.names import TARGET
from noether.training.accumulation import Weights, weights_of
from noether.training.trainers.torch_losses import is_per_point
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
            "losses": _weighted_sums(losses, weights_of(result, samples)),
            "outputs": _weighted_sums(outputs, dict.fromkeys(outputs, samples)),
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


def _weighted_sums(values: Mapping[str, Any], weights: Weights) -> dict[str, dict[str, Tensor]]:
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


class SummedMetric(ABC):
    """A metric of a whole data set as a function of sums over its batches."""

    @staticmethod
    @abstractmethod
    def sums(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
        """Return the sums over one batch.

        Args:
            prediction: Predictions, the batch first.
            target: Targets of their shape; class indices for accuracy.
            valid: True for the points that count, of the leading dimensions of the target; None for all.
        """

    @staticmethod
    @abstractmethod
    def value(sums: dict[str, Tensor]) -> Tensor:
        """Return the metric of all batches; each sum has one entry a batch."""


def _count(values: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the number of values that count, beside them: a copy from the host would wait for the device."""
    if valid is not None:
        return precise(_over(valid, values).expand_as(values).sum())
    device = "cpu" if values.device.type == "mps" else values.device  # as `precise`
    return torch.full((), values.numel(), dtype=torch.float64, device=device)


def _names(values: Any) -> list[str] | str:
    return sorted(values) if isinstance(values, Mapping) else f"of type {type(values).__name__}"


def _error(prediction: Tensor, target: Tensor) -> Tensor:
    _refuse_broadcasting(prediction, target)
    return precise(prediction) - precise(target)


def _counted(values: Tensor, valid: Tensor | None) -> Tensor:
    """Return the values with zeros where they do not count; to select them would wait for the device."""
    return values if valid is None else values.where(_over(valid, values), 0)


def _over(valid: Tensor, values: Tensor) -> Tensor:
    """Return a mask of the leading dimensions of some values in a shape that goes with theirs."""
    return valid.reshape(valid.shape + (1,) * (values.ndim - valid.ndim))


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
    def sums(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
        predicted = prediction.argmax(dim=1)
        _refuse_broadcasting(predicted, target)
        hits = _counted(predicted == target, valid)
        return {"hits": precise(hits.sum()), "count": _count(hits, valid)}

    @staticmethod
    def value(sums: dict[str, Tensor]) -> Tensor:
        return sums["hits"].sum() / sums["count"].sum()


class MeanAbsoluteError(SummedMetric):
    """Mean of `|prediction - target|` over all entries."""

    @staticmethod
    def sums(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
        error = _counted(_error(prediction, target), valid).abs()
        return {"absolute": error.sum(), "count": _count(error, valid)}

    @staticmethod
    def value(sums: dict[str, Tensor]) -> Tensor:
        return sums["absolute"].sum() / sums["count"].sum()


class RootMeanSquareError(SummedMetric):
    """Root of the mean squared difference over all entries."""

    @staticmethod
    def sums(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
        error = _counted(_error(prediction, target), valid).abs().square()
        return {"squared": error.sum(), "count": _count(error, valid)}

    @staticmethod
    def value(sums: dict[str, Tensor]) -> Tensor:
        return (sums["squared"].sum() / sums["count"].sum()).sqrt()


class R2(SummedMetric):
    """Coefficient of determination: 1 - squared error / squared deviation of the targets from their mean."""

    @staticmethod
    def sums(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
        squared = _counted(_error(prediction, target), valid).abs().square().sum()
        target = precise(target)
        count = _count(target, valid)
        mean = _counted(target, valid).sum() / count.clamp(min=1)
        # Each batch around its own mean: squares of targets far from zero would leave nothing of their deviation.
        return {
            "squared": squared,
            "mean": mean,
            "deviation": _counted((target - mean).abs().square(), valid).sum(),
            "count": count,
        }

    @staticmethod
    def value(sums: dict[str, Tensor]) -> Tensor:
        count, mean = sums["count"], sums["mean"]
        around = mean - mean[0]
        around = around - (count * around).sum() / count.sum()
        deviation = sums["deviation"].sum() + (count * around.abs().square()).sum()
        return 1 - sums["squared"].sum() / deviation


class RelativeL2(SummedMetric):
    """Mean over samples of the Euclidean norm of the error divided by that of the target."""

    @staticmethod
    def sums(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
        error, target = _error(prediction, target), precise(target)
        if valid is not None:
            error, target = _counted(error, valid), _counted(target, valid)
        ratios = error.reshape(len(target), -1).norm(dim=1) / target.reshape(len(target), -1).norm(dim=1)
        return {"ratios": ratios.sum(), "count": _count(ratios)}

    @staticmethod
    def value(sums: dict[str, Tensor]) -> Tensor:
        return sums["ratios"].sum() / sums["count"].sum()


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
        target_name = f"{field}{TARGET}"
        outputs = of_only_field(outputs, self.metrics)
        if not isinstance(outputs, Mapping) or field not in outputs or target_name not in batch:
            raise TrainingError(
                f"callback '{self.id}': missing output or target: found outputs {_names(outputs)} and properties "
                f"{_names(batch)}, expected output '{field}' and property '{target_name}'",
                hint="list fields that the model returns under `metrics`",
            )
        output = outputs[field]
        if output.is_complex() and "accuracy" in names:
            raise TrainingError(
                f"callback '{self.id}': wrong type of the output '{field}': found {output.dtype}, expected real logits "
                "for accuracy",
                hint="choose other metrics of this field under `metrics`",
            )
        prediction = self.in_units(target_name, output.to(torch.promote_types(output.dtype, torch.float32)))
        target = self.in_units(target_name, batch[target_name])
        valid = self._valid(target, batch)
        kept = valid
        if "accuracy" in names and self.trainer.ignore_index is not None:
            kept = (
                target != self.trainer.ignore_index if valid is None else (target != self.trainer.ignore_index) & valid
            )
        return {name: METRICS[name].sums(prediction, target, kept if name == "accuracy" else valid) for name in names}

    def _valid(self, target: Tensor, batch: Mapping[str, Tensor]) -> Tensor | None:
        """Return the valid points of a padded batch; None if all of a field's values count."""
        mask = batch.get(MASK) if self.trainer.has_masks else None
        return mask if mask is not None and is_per_point(target, mask) else None

    def process_results(self, results: dict[str, dict[str, dict[str, Tensor]]], **_: Any) -> None:
        """Log each metric of each field."""
        key = self.data_name
        for field, metrics in results.items():
            for name, batches in metrics.items():
                self.writer.add_scalar(f"{name}/{key}/{field}", METRICS[name].value(batches))
