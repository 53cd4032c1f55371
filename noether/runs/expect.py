"""Checks the final metrics of a run against the spec's `[expect]` table."""

from __future__ import annotations

import math
from collections.abc import Mapping

from noether.core.utils.nearest import did_you_mean
from noether.errors import ExpectationError
from noether.spec.model import Expectation


def broken_expectations(expected: Mapping[str, Expectation], metrics: Mapping[str, float]) -> list[str]:
    """Return a sentence for each expectation that the metrics do not meet."""
    return [problem for key, bounds in expected.items() if (problem := _broken(key, bounds, metrics))]


def _broken(key: str, bounds: Expectation, metrics: Mapping[str, float]) -> str | None:
    if key not in metrics:
        return f"{key} was never logged.{did_you_mean(key, metrics)}"
    value = metrics[key]
    if math.isnan(value):
        return f"{key} is not a number"
    if bounds.min is not None and value < bounds.min:
        return f"{key} is {value:.6g}, expected at least {bounds.min:g}"
    if bounds.max is not None and value > bounds.max:
        return f"{key} is {value:.6g}, expected at most {bounds.max:g}"
    if bounds.equals is not None and abs(value - bounds.equals) > (bounds.tolerance or 0.0):
        return f"{key} is {value:.6g}, expected {bounds.equals:g} within {bounds.tolerance or 0.0:g}"
    return None


def check_expectations(expected: Mapping[str, Expectation], metrics: Mapping[str, float]) -> None:
    """Compare the final metrics with what the spec expects.

    Raises:
        ExpectationError: Something is not met; the message names every value and bound.
    """
    problems = broken_expectations(expected, metrics)
    if problems:
        raise ExpectationError("the run ended, but not as [expect] demands: " + "; ".join(problems))
