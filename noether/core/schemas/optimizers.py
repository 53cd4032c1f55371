"""The config that every optimizer's builds on: what the trainer does around the optimizer's own options."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from noether.core.schemas.discriminated import Discriminated
from noether.core.schemas.registry_base import _RegistryBase


class ParameterGroupConfig(BaseModel):
    """What some of the parameters, chosen by name, are trained with instead."""

    model_config = ConfigDict(extra="forbid")

    match: list[str] = Field(
        min_length=1,
        examples=[["encoder.*"]],
        description="Patterns of parameter names; in a part of a composite, of the names within the part.",
    )
    lr_scale: float = Field(
        1.0, gt=0, examples=[0.1], description="Factor on the learning rate, whatever the schedule makes of that."
    )
    weight_decay: float | None = Field(
        None, ge=0, examples=[0.0], description="Weight decay of the group; unset: the optimizer's."
    )
    decay_bias_and_norm: bool | None = Field(
        None, description="Apply weight decay to the group's biases and normalisation weights; unset: as the optimizer."
    )


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
    groups: list[ParameterGroupConfig] = Field(
        default_factory=list,
        examples=[[{"match": ["encoder.*"], "lr_scale": 0.1, "weight_decay": 0.0}]],
        description="Parameters with a learning rate or weight decay of their own; the first that matches counts.",
    )
