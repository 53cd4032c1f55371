"""What writes a run's results to its folder."""

from noether.core.writers.checkpoint import CheckpointWriter
from noether.core.writers.log import LogWriter
from noether.core.writers.metrics_file import MetricsFile

__all__ = ["CheckpointWriter", "LogWriter", "MetricsFile"]
