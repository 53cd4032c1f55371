"""The config that every schedule's builds on."""

from __future__ import annotations

from typing import ClassVar

from noether.core.schemas.registry_base import _RegistryBase


class ScheduleBaseConfig(_RegistryBase):
    """What every schedule can be told: its kind."""

    role: ClassVar[str] = "schedule"
