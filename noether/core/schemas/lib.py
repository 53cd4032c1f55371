"""The documented import path of the configs' base, and of the annotation for fields that hold configs."""

from __future__ import annotations

from noether.core.schemas.discriminated import Discriminated
from noether.core.schemas.registry_base import _RegistryBase, component_of

__all__ = ["Discriminated", "_RegistryBase", "component_of"]
