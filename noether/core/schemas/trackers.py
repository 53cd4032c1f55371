"""The config that every tracker's builds on."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from noether.core.schemas.registry_base import _RegistryBase


class TrackerBaseConfig(_RegistryBase):
    """What every tracker can be told beside its own options."""

    role: ClassVar[str] = "tracker"

    required: bool = Field(
        False, description="Fail the run where this tracker cannot be reached, refuses, or lacks something at the end."
    )
    flush_timeout_s: float = Field(
        30.0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds that the end of a run waits for this tracker, 5 at most after a signal.",
    )
