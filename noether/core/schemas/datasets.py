"""The config that every data set's builds on."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from noether.core.schemas.discriminated import Discriminated
from noether.core.schemas.registry_base import _RegistryBase


class DatasetBaseConfig(_RegistryBase):
    """What every data set can be told beside its own options."""

    role: ClassVar[str] = "dataset"

    transforms: list[Annotated[Any, Discriminated("transform")]] = Field(
        default_factory=list,
        examples=[[{"kind": "normalize", "properties": ["points"]}]],
        description="Transforms of this data set only, before those of the whole run.",
    )
