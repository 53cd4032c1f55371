"""The documented import path of the configs' base, and of the annotation for fields that hold configs."""

from __future__ import annotations

from noether.config.base import _RegistryBase, component_of
from noether.config.discriminated import Discriminated

__all__ = ["Discriminated", "_RegistryBase", "component_of"]
