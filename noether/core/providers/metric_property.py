"""Documented import path of `MetricPropertyProvider`."""

from noether.metrics.directions import MetricPropertyProvider

__all__ = ["MetricPropertyProvider"]
