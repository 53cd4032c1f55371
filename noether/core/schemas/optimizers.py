"""The config that every optimizer's builds on: what the trainer does around the optimizer's own options."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from noether.core.schemas.discriminated import Discriminated
from noether.core.schemas.registry_base import _RegistryBase


class OptimizerBaseConfig(_RegistryBase):
    """What every optimizer can be told beside its own options."""

    role: ClassVar[str] = "optimizer"

    schedule: Annotated[Any, Discriminated("schedule")] | None = Field(
        None, description="How the learning rate changes over training; constant if left out."
    )
    weight_decay_schedule: Annotated[Any, Discriminated("schedule")] | None = Field(
        None, description="How the weight decay changes over training; constant if left out."
    )
    clip_grad_norm: float | None = Field(
        None, gt=0, description="Scale gradients down to this global norm before each update."
    )
    clip_grad_value: float | None = Field(
        None, gt=0, description="Limit each gradient element to this absolute value before each update."
    )
    decay_bias_and_norm: bool = Field(
        False, description="Apply weight decay to biases and normalisation weights as well."
    )
