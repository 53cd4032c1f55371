"""MLflow requests: names, batches, history and refused values."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from noether.metrics.metrics_file import MetricRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

MAX_NAME_LENGTH = 250

_PLAIN = re.compile(r"[/\w.\- =]*")
_UNSUITABLE = re.compile(r"[^/\w.\- =]")
_MARK = re.compile(r"\.x[0-9a-f]{8}$")


@lru_cache(maxsize=65536)
def mlflow_name(key: str) -> str:
    """Return MLflow's name for `key`: the same in every process, different for different keys."""
    if _PLAIN.fullmatch(key) and _is_normal(key) and len(key) <= MAX_NAME_LENGTH and not _MARK.search(key):
        return key.replace("=", ":")
    digest = f".x{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    readable = _UNSUITABLE.sub("_", key).replace("=", ":")
    parts = [part for part in readable.split("/") if part not in ("", ".", "..")]
    name = "/".join(parts)[: MAX_NAME_LENGTH - len(digest)] + digest
    return f"_{name[1:]}" if name.startswith("..") else name


def _is_normal(key: str) -> bool:
    """Return True if the key is a path in the normal form that MLflow requires."""
    return posixpath.normpath(key) == key and key != "." and not key.startswith(("..", "/"))


MAX_METRICS = 1000
MAX_PARAMS = 100
MAX_PARAM_LENGTH = 6000
MAX_REQUEST_BYTES = 900_000
"""MLflow accepts one megabyte, including the text around the values."""

_FIELDS_BYTES = 120
"""Bytes of a value's number, time and step, and of the field names."""

_Value = TypeVar("_Value", "Metric", "Param")


def to_metrics(records: Sequence[MetricRecord]) -> tuple[list[Metric], int]:
    """Return the values of the records with the update as MLflow's step, and the number of omitted infinities.

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
    """Return the parameters in the form that MLflow and all of its databases accept.

    A long value is cut and ends in a digest of the full text, which is in the run's spec.
    """
    from mlflow.entities import Param

    return [Param(mlflow_name(key), _cut(_storable(value))) for key, value in params.items()]


def in_requests(values: Sequence[_Value], at_most: int) -> Iterator[list[_Value]]:
    """Yield the values in order, in lists that fit into one request."""
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
    """Replace characters that some databases refuse: halves of surrogate pairs, and NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def _cut(value: str) -> str:
    if len(value) <= MAX_PARAM_LENGTH:
        return value
    end = f"… sha256:{hashlib.sha256(value.encode()).hexdigest()[:16]}"
    return value[: MAX_PARAM_LENGTH - len(end)] + end


_Point = tuple[str, int, float | None]


def not_in_history(client: MlflowClient, run_id: str, records: Sequence[MetricRecord]) -> list[MetricRecord]:
    """Return the records without values that the MLflow run already has; drop records that become empty.

    Values are compared by name, update and value, not by time: a resumed run computes the same values again, later.
    """
    names = {mlflow_name(key) for record in records for key in record.metrics}
    logged = Counter(
        _point(point.key, point.step, point.value)
        for name in names
        for point in client.get_metric_history(run_id, name)
    )
    missing = []
    for record in records:
        metrics = {}
        for key, value in record.metrics.items():
            point = _point(mlflow_name(key), record.update, value)
            if logged[point]:
                logged[point] -= 1
            else:
                metrics[key] = value
        if metrics:
            missing.append(replace(record, metrics=metrics))
    return missing


def _point(name: str, update: int, value: float) -> _Point:
    return name, update, None if math.isnan(value) else value


_LOGGER = logging.getLogger(__name__)
_REFUSED = "INVALID_PARAMETER_VALUE"
_TOO_MANY = 20
"""Number of refused values after which the store is assumed to refuse all of them."""


class MetricSender:
    """Send values to one MLflow run, and leave out values that MLflow refuses.

    Args:
        client: MLflow's client.
        run_id: Id of the MLflow run.

    Attributes:
        refused: Number of values left out.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.refused = 0
        self._client = client
        self._run_id = run_id

    def send(self, metrics: Sequence[Metric]) -> None:
        """Send the values in one request; if it is refused, send its halves, down to single values.

        Raises:
            MlflowException: if the store cannot be reached, or refuses the run as a whole.
        """
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_batch(self._run_id, metrics=metrics, synchronous=True)
        except MlflowException as error:
            if error.error_code != _REFUSED:
                raise
            if len(metrics) > 1:
                middle = len(metrics) // 2
                self.send(metrics[:middle])
                self.send(metrics[middle:])
                return
            if self.refused >= _TOO_MANY or self._client.get_run(self._run_id).info.lifecycle_stage == "deleted":
                raise
            self.refused += 1
            _LOGGER.warning("MLflow refused %s = %r: %s", metrics[0].key, metrics[0].value, error.message[:200])
