"""The callback `torchmetrics`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from noether.core.callbacks import PeriodicDataIteratorCallback, PeriodicDataIteratorCallbackConfig
from noether.errors import TrainingError
from noether_plugin_torchmetrics.library import build

if TYPE_CHECKING:
    from torchmetrics import Metric

MOST_KEYS = 100
"""Entries of a vector that are logged as metrics; a longer one is kept whole."""


class MetricTable(BaseModel):
    """One metric of a field; further keys are the options of its class."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(examples=["MulticlassF1Score"], description="Class of torchmetrics: MulticlassF1Score.")
    key: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="First part of its metric keys; unset: the class as multiclass-f1-score.",
    )

    @model_validator(mode="after")
    def _can_be_built(self) -> MetricTable:
        self.build()
        return self

    def build(self) -> Metric:
        """Return a new metric."""
        return build(self.name, self.model_extra or {})

    @property
    def label(self) -> str:
        """First part of its metric keys."""
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", self.name)
        return self.key or words.lower()


class TorchMetricsConfig(PeriodicDataIteratorCallbackConfig):
    """Options of `torchmetrics` beside its interval and data set."""

    metrics: dict[str, list[MetricTable]] = Field(
        min_length=1,
        examples=[{"label": [{"name": "MulticlassF1Score", "num_classes": 10}]}],
        description="Metrics of each field: class of torchmetrics, its options, and the key to log it under.",
    )

    @model_validator(mode="after")
    def _keys_differ(self) -> TorchMetricsConfig:
        for field, tables in self.metrics.items():
            labels = [table.label for table in tables]
            if twice := [label for label in labels if labels.count(label) > 1]:
                raise ValueError(f"two metrics of '{field}' have the key '{twice[0]}': give one of them another `key`")
        return self


class TorchMetricsCallback(PeriodicDataIteratorCallback):
    """Compares outputs with targets, in the units of the data, and logs `{metric}/{dataset_key}/{field}`.

    A metric sees all samples of the data set before its value is taken. A vector or a dict gives a key an entry, and a
    larger result is written to `nonscalars.jsonl`.
    """

    def __init__(self, callback_config: TorchMetricsConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self.metrics = {
            field: {table.label: table.build().to(self.trainer.device) for table in tables}
            for field, tables in callback_config.metrics.items()
        }

    @classmethod
    def produced_metrics(cls, config: TorchMetricsConfig, facts: Any) -> tuple[str, ...]:
        """Return the keys that it logs; the second of each is that of a vector's or dict's entries."""
        data = facts.dataset_key(config.dataset_key)
        keys = [f"{table.label}/{data}/{field}" for field, tables in config.metrics.items() for table in tables]
        return tuple(each for key in keys for each in (key, f"{key}/*"))

    @classmethod
    def metric_directions(cls, config: TorchMetricsConfig) -> dict[str, Any]:
        """Return the directions that torchmetrics knows."""
        found: dict[str, Any] = {}
        for field, tables in config.metrics.items():
            for table in tables:
                is_higher = table.build().higher_is_better
                if is_higher is not None:
                    direction = "higher" if is_higher else "lower"
                    data = config.dataset_key or "*"
                    found |= {f"{table.label}/{data}/{field}{rest}": direction for rest in ("", "/*")}
        return found

    def periodic_callback(self, **arguments: Any) -> None:
        """Begin with empty metrics, also if the last pass was interrupted."""
        self._reset()
        super().periodic_callback(**arguments)
        self._reset()

    def process_data(self, batch: dict[str, Tensor], *, trainer_model: nn.Module) -> None:
        """Update all metrics with a batch."""
        outputs = self.trainer.forward(batch, trainer_model)
        with torch.autocast(self.trainer.device.type, enabled=False):
            for field, metrics in self.metrics.items():
                prediction, target = self._compared(field, outputs, batch)
                for label, metric in metrics.items():
                    with self._named(label, field, prediction, target):
                        metric.update(prediction, target)

    def process_results(self, results: None, **_: Any) -> None:
        """Log the value of each metric over the data set."""
        for field, metrics in self.metrics.items():
            for label, metric in metrics.items():
                with self._named(label, field):
                    value = metric.compute()
                self._log(f"{label}/{self.data_name}/{field}", value)

    def _compared(self, field: str, outputs: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return prediction and target of a field in the units of the data, of a padded batch the valid points."""
        name = f"{field}_target"
        if isinstance(outputs, Tensor) and len(self.metrics) == 1:
            outputs = {field: outputs}
        if not isinstance(outputs, Mapping) or field not in outputs or name not in batch:
            found = sorted(outputs) if isinstance(outputs, Mapping) else f"of type {type(outputs).__name__}"
            raise TrainingError(
                f"callback '{self.id}': missing output or target: found outputs {found} and properties "
                f"{sorted(batch)}, expected output '{field}' and property '{name}'",
                hint="list fields that the model returns under `metrics`",
            )
        prediction, target = (self.in_units(name, precise(each)) for each in (outputs[field], batch[name]))
        mask = batch.get("mask") if self.trainer.has_masks else None
        if mask is None or target.shape[:2] != mask.shape:
            return prediction, target
        if prediction.shape[:2] != mask.shape:
            raise TrainingError(
                f"callback '{self.id}': wrong shape of the output '{field}' of a padded batch: found "
                f"{tuple(prediction.shape)}, expected {tuple(mask.shape)} and what each point has",
                hint="return a value for each point of the batch",
            )
        return prediction[mask], target[mask]

    def _log(self, key: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for name, part in value.items():
                self._log(f"{key}/{name}", part)
        elif not isinstance(value, Tensor):
            self.writer.add_nonscalar(key, value)
        elif value.numel() == 1:
            self.writer.add_scalar(key, value.reshape(()), logger=self.logger, format_str=".4g")
        elif value.ndim == 1 and value.numel() <= MOST_KEYS:
            for index, entry in enumerate(value):
                self.writer.add_scalar(f"{key}/{index}", entry)
        else:
            self.writer.add_nonscalar(key, value)

    @contextmanager
    def _named(self, label: str, field: str, *compared: Tensor) -> Iterator[None]:
        """Name the metric in its errors, with the shapes that it was given."""
        try:
            yield
        except Exception as error:
            shapes = "".join(
                f", {name} {tuple(e.shape)}" for name, e in zip(("output", "target"), compared, strict=False)
            )
            raise TrainingError(
                f"callback '{self.id}': the metric '{label}' of '{field}' fails{shapes}: {error}",
                hint="change its options, or the shape of the output, to what torchmetrics documents for it",
            ) from error

    def _reset(self) -> None:
        for metrics in self.metrics.values():
            for metric in metrics.values():
                metric.reset()


def precise(tensor: Tensor) -> Tensor:
    """Return numbers in double precision, so that sums over a large data set keep their digits; indices as they are."""
    if not tensor.dtype.is_floating_point:
        return tensor
    return tensor.float() if tensor.device.type == "mps" else tensor.double()
