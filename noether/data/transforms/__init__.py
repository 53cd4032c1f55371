"""Maps from sample to sample, with an inverse where there is one."""

from noether.data.transforms.base import Transform

__all__ = ["Transform"]
