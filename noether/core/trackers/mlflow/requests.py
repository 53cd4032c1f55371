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


def metric_key(name: str) -> str | None:
    """Return the key behind a name; None for one with a digest, whose key only `metrics.jsonl` knows."""
    return None if _MARK.search(name) else name.replace(":", "=")


def _is_normal(key: str) -> bool:
    """Whether the key is a path in the one spelling that MLflow takes."""
    return posixpath.normpath(key) == key and key != "." and not key.startswith(("..", "/"))


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


_Point = tuple[str, int, float | None]


def not_in_history(client: MlflowClient, run_id: str, records: Sequence[MetricRecord]) -> list[MetricRecord]:
    """Return the records without the values that are in the run's curves, and without records that are there whole.

    Compared by name, update and value, not by time: after a resume the same values were computed again, later.
    """
    names = {mlflow_name(key) for record in records for key in record.metrics}
    there = Counter(
        _point(point.key, point.step, point.value)
        for name in names
        for point in client.get_metric_history(run_id, name)
    )
    missing = []
    for record in records:
        metrics = {}
        for key, value in record.metrics.items():
            point = _point(mlflow_name(key), record.update, value)
            if there[point]:
                there[point] -= 1
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
"""A store that refuses so many values refuses everything."""


class MetricSender:
    """Sends values, and leaves out those that MLflow refuses.

    Args:
        client: MLflow's client.
        run_id: The MLflow run.

    Attributes:
        refused: How many values were left out.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.refused = 0
        self._client = client
        self._run_id = run_id

    def send(self, metrics: Sequence[Metric]) -> None:
        """Send the values in one request, or in halves of it as long as that is refused.

        Raises:
            MlflowException: If the store cannot be reached, or refuses the run and not a value of it.
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
