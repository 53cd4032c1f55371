"""The config that every transform's builds on."""

from __future__ import annotations

from typing import ClassVar

from noether.core.schemas.registry_base import _RegistryBase


class TransformBaseConfig(_RegistryBase):
    """What every transform can be told: its kind."""

    role: ClassVar[str] = "transform"
