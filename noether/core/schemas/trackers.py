"""The config that every tracker's builds on."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from noether.core.schemas.registry_base import _RegistryBase


class TrackerBaseConfig(_RegistryBase):
    """What every tracker can be told beside its own options."""

    role: ClassVar[str] = "tracker"

    required: bool = Field(False, description="Fail the run where this tracker cannot be reached.")
