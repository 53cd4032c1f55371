"""Models: the base class, composites, adapted torch modules and small built-in networks."""

from noether.core.models.base import ModelBase
from noether.core.models.composite import CompositeModel

__all__ = ["CompositeModel", "ModelBase"]
