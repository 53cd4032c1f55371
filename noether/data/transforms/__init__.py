"""Transforms: maps from sample to sample."""

from noether.data.transforms.base import Transform

__all__ = ["Transform"]
