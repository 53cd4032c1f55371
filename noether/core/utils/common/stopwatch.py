"""Stopwatch, at its documented path."""

from noether.kernel.progress import Stopwatch

__all__ = ["Stopwatch"]
