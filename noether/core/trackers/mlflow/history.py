"""What of some records MLflow has already: asked after a process died while it was sending them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from noether.core.trackers.mlflow.names import mlflow_name
from noether.core.trackers.record import MetricRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient

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
