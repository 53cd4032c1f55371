"""Documented import path of the providers."""

from noether.checkpoint.paths import PathProvider, ResumptionPaths
from noether.config.metric_facts import MetricPropertyProvider

__all__ = ["MetricPropertyProvider", "PathProvider", "ResumptionPaths"]
