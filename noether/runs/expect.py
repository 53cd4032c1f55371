"""`[expect]`: bounds on the final and best metrics of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping

from noether.errors import ExpectationError
from noether.kernel.names import did_you_mean
from noether.spec.checks.metrics import BEST
from noether.spec.model import Expectation

IS_BROKEN = "training finished, but [expect] failed: "
"""Beginning of the message of a broken expectation."""


def broken_expectations(
    expected: Mapping[str, Expectation], final: Mapping[str, float], best: Mapping[str, float] | None = None
) -> list[str]:
    """Return a sentence for each expectation that the metrics do not meet.

    Args:
        expected: Bounds by metric key; `best/<key>` is the best value of the metric `<key>`.
        final: The last value of each metric.
        best: The best finite value of each metric whose direction is known.
    """
    sentences = (_broken(key, bounds, final, best or {}) for key, bounds in expected.items())
    return [sentence for sentence in sentences if sentence is not None]


def check_expectations(
    expected: Mapping[str, Expectation], final: Mapping[str, float], best: Mapping[str, float] | None = None
) -> None:
    """Compare the metrics of a run with `[expect]`; see `broken_expectations`.

    Raises:
        ExpectationError: if a bound is broken; the message names every value and bound.
    """
    broken = broken_expectations(expected, final, best)
    if broken:
        raise ExpectationError(IS_BROKEN + "; ".join(broken))


def _broken(key: str, bounds: Expectation, final: Mapping[str, float], best: Mapping[str, float]) -> str | None:
    metric = key.removeprefix(BEST)
    if key in final:  # a metric of exactly this name, whatever it begins with
        return _outside(key, final[key], bounds)
    if metric not in final:
        return f"{metric} was never logged, expected {_words(bounds)}.{did_you_mean(metric, final)}"
    if metric not in best:
        return f"{metric} has no best value, as it was never finite or has no direction; expected {_words(bounds)}"
    return _outside(f"the best {metric}", best[metric], bounds)


def _outside(name: str, value: float, bounds: Expectation) -> str | None:
    if math.isnan(value):
        return f"{name} = nan, expected {_words(bounds)}"
    if bounds.min is not None and value < bounds.min:
        return f"{name} = {value:.6g}, expected at least {bounds.min:g}"
    if bounds.max is not None and value > bounds.max:
        return f"{name} = {value:.6g}, expected at most {bounds.max:g}"
    if bounds.equals is not None and abs(value - bounds.equals) > (bounds.tolerance or 0.0):
        return f"{name} = {value:.6g}, expected {bounds.equals:g} within {bounds.tolerance or 0.0:g}"
    return None


def _words(bounds: Expectation) -> str:
    """Return bounds in the words of the messages."""
    words = [] if bounds.min is None else [f"at least {bounds.min:g}"]
    words += [] if bounds.max is None else [f"at most {bounds.max:g}"]
    words += [] if bounds.equals is None else [f"{bounds.equals:g} within {bounds.tolerance or 0.0:g}"]
    return " and ".join(words)
