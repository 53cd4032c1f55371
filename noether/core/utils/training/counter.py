"""UpdateCounter, at its documented path."""

from noether.kernel.progress import UpdateCounter

__all__ = ["UpdateCounter"]
