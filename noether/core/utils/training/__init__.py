"""Where a run stands and when something is due, in whole numbers."""

from noether.core.utils.training.counter import UpdateCounter
from noether.core.utils.training.iteration import TrainingIteration

__all__ = ["TrainingIteration", "UpdateCounter"]
