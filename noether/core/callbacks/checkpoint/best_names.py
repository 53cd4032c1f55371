"""How the best value of a metric is called: as a checkpoint, as a metric, and before the metrics of its evaluation."""

from __future__ import annotations


def best_tag(metric_key: str, tolerance: int | None = None) -> str:
    """Return the name of the best checkpoint: `best_model.loss.test.total`, `best_model.loss.test.total.tolerance=5`.

    Args:
        metric_key: The metric, with the prefix under which it is logged.
        tolerance: Of the one that early stopping with this tolerance would have kept; None for the best of all.
    """
    return f"best_model.{_with_dots(metric_key)}" + ("" if tolerance is None else f".tolerance={tolerance}")


def best_key(metric_key: str, tolerance: int | None = None) -> str:
    """Return the key of the best value: `loss/test/total/best`, `loss/test/total/best/tolerance=5`."""
    return f"{metric_key}/best" + ("" if tolerance is None else f"/tolerance={tolerance}")


def best_prefix(metric_key: str) -> str:
    """Return what stands before the metrics that are computed on a new best: `best=loss.test.total/`."""
    return f"best={_with_dots(metric_key)}/"


def _with_dots(metric_key: str) -> str:
    return metric_key.replace("/", ".")
