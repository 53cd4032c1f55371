"""From records and parameters to what MLflow's `log_batch` takes, within its limits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from noether.core.trackers.mlflow.names import mlflow_name
from noether.core.trackers.record import MetricRecord

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param

MAX_METRICS = 1000
MAX_PARAMS = 100
MAX_PARAM_LENGTH = 6000

_T = TypeVar("_T")


def to_metrics(records: Sequence[MetricRecord]) -> tuple[list[Metric], int]:
    """Return the values of these records with the update as step, and how many infinities were left out.

    MLflow keeps NaN, but stores an infinity as 1.8e308, which flattens the chart.
    """
    from mlflow.entities import Metric

    metrics, infinities = [], 0
    for record in records:
        timestamp = max(0, int(record.time * 1000))
        for key, value in record.metrics.items():
            if math.isinf(value):
                infinities += 1
            else:
                metrics.append(Metric(mlflow_name(key), value, timestamp, record.update))
    return metrics, infinities


def to_params(params: Mapping[str, str]) -> list[Param]:
    """Return the parameters, long values cut to what MLflow keeps."""
    from mlflow.entities import Param

    return [Param(mlflow_name(key), _cut(value)) for key, value in params.items()]


def in_chunks(items: Sequence[_T], size: int) -> Iterator[list[_T]]:
    """Yield the items in lists of at most `size`."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _cut(value: str) -> str:
    return value if len(value) <= MAX_PARAM_LENGTH else value[: MAX_PARAM_LENGTH - 1] + "…"
