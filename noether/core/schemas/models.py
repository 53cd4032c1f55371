"""The config that every model's builds on."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from noether.core.schemas.discriminated import Discriminated
from noether.core.schemas.registry_base import _RegistryBase


class ModelBaseConfig(_RegistryBase):
    """What every model can be told beside its own options."""

    role: ClassVar[str] = "model"

    optimizer: Annotated[Any, Discriminated("optimizer")] | None = Field(
        None,
        examples=[{"kind": "AdamW", "lr": 1e-3}],
        description="The optimizer of the model's parameters; needed where there is training.",
    )
    frozen: list[str] = Field(
        default_factory=list,
        examples=[["encoder.*"]],
        description="Patterns of parameter names that are not trained (`encoder.*`).",
    )
