"""Documented import path of the update counter."""

from noether.kernel.progress import EarlyStopIteration, TrainingIteration, UpdateCounter

__all__ = ["EarlyStopIteration", "TrainingIteration", "UpdateCounter"]
