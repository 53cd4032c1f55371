"""From records and parameters to what MLflow's `log_batch` takes, within its limits."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from noether.core.trackers.mlflow.names import mlflow_name
from noether.core.trackers.record import MetricRecord

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param

MAX_METRICS = 1000
MAX_PARAMS = 100
MAX_PARAM_LENGTH = 6000
MAX_REQUEST_BYTES = 900_000
"""MLflow takes a megabyte, with what is around the values."""

_FIELDS_BYTES = 120
"""A value's own number, time and step, and the names of the fields."""

_Value = TypeVar("_Value", "Metric", "Param")


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
    """Return the parameters as MLflow and every database behind it take them.

    A long value is cut, and ends in a digest of all of it: the whole is in the run's spec.
    """
    from mlflow.entities import Param

    return [Param(mlflow_name(key), _cut(_storable(value))) for key, value in params.items()]


def in_requests(values: Sequence[_Value], at_most: int) -> Iterator[list[_Value]]:
    """Yield the values in order, in lists that MLflow takes in one request."""
    chunk: list[_Value] = []
    size = 0
    for value in values:
        needed = _bytes(value.key) + (_bytes(value.value) if isinstance(value.value, str) else 0) + _FIELDS_BYTES
        if chunk and (len(chunk) == at_most or size + needed > MAX_REQUEST_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(value)
        size += needed
    if chunk:
        yield chunk


def _bytes(text: str) -> int:
    return len(text) if text.isidentifier() and text.isascii() else len(json.dumps(text))


def _storable(text: str) -> str:
    """Replace what some database refuses: halves of surrogate pairs, and the NUL character."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def _cut(value: str) -> str:
    if len(value) <= MAX_PARAM_LENGTH:
        return value
    end = f"… sha256:{hashlib.sha256(value.encode()).hexdigest()[:16]}"
    return value[: MAX_PARAM_LENGTH - len(end)] + end
