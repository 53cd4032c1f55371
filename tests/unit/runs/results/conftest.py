"""Runs without folders: summaries with given settings and metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from noether.checkpoint.paths import PathProvider
from noether.config.metric_facts import metric_direction
from noether.runs.results.summary import Evaluated, RunSummary


@pytest.fixture(scope="session")
def made() -> Callable[..., RunSummary]:
    """Makes a summary: `made("a", {"seed": 1}, {"loss/test/total": 0.5}, status="FAILED")`."""

    def make(run_id: str, tables: dict[str, Any], metrics: dict[str, float], **fields: Any) -> RunSummary:
        evaluations = []
        for key, value in metrics.items():
            direction = {"lower": "min", "higher": "max"}.get(metric_direction(key) or "")
            best = value if direction else None
            evaluations.append(Evaluated(key, value, 10, best, 10 if direction else None, direction))
        given = {"status": "FINISHED", "update": 10} | fields
        return RunSummary(
            PathProvider("runs", run_id), run_id, "tiny", seed=tables.get("seed"), tables=tables, metrics=metrics,
            evaluations=tuple(evaluations), **given,
        )  # fmt: skip

    return make
