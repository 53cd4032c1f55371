"""The config that every loss's is derived from."""

from __future__ import annotations

from typing import ClassVar

from noether.core.schemas.registry_base import _RegistryBase


class LossBaseConfig(_RegistryBase):
    """What every loss can be told: its kind; its own options come from the signature of its function."""

    role: ClassVar[str] = "loss"
