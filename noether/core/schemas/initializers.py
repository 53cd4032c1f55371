"""The config that every initializer's builds on."""

from __future__ import annotations

from typing import ClassVar

from noether.core.schemas.registry_base import _RegistryBase


class InitializerConfig(_RegistryBase):
    """What every initializer can be told: its kind."""

    role: ClassVar[str] = "initializer"
