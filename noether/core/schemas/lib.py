"""Documented import path of the root of all configs, and of the annotation of nested configs."""

from __future__ import annotations

from noether.config.base import _RegistryBase, component_of
from noether.config.discriminated import Discriminated

__all__ = ["Discriminated", "_RegistryBase", "component_of"]
