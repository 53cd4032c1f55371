"""Initializers: where the state comes from that training begins with."""

from noether.core.initializers.base import InitializerBase, InitializerConfig

__all__ = ["InitializerBase", "InitializerConfig"]
