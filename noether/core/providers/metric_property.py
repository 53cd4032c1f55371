"""Documented import path of `MetricPropertyProvider`."""

from noether.config.metric_facts import MetricPropertyProvider

__all__ = ["MetricPropertyProvider"]
