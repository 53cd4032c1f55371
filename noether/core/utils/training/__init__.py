"""Where a run stands and when something is due, in whole numbers."""

from noether.kernel.progress import TrainingIteration, UpdateCounter

__all__ = ["TrainingIteration", "UpdateCounter"]
