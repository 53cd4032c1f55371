"""Documented import path of the update counter."""

from noether.kernel.progress import TrainingIteration, UpdateCounter

__all__ = ["TrainingIteration", "UpdateCounter"]
