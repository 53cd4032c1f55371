"""Facts about a run that many parts need and that none of them owns."""

from noether.core.providers.metric_property import MetricPropertyProvider
from noether.core.providers.path import PathProvider, ResumptionPaths

__all__ = ["MetricPropertyProvider", "PathProvider", "ResumptionPaths"]
