"""Documented import path of `PathProvider`."""

from noether.checkpoint.paths import PathProvider, ResumptionPaths

__all__ = ["PathProvider", "ResumptionPaths"]
