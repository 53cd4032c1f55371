"""From `[model]` to a model on its device, sizes inferred, frozen parts frozen."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from noether.core.models.adapted import AdaptedModule
from noether.core.models.base import ModelBase
from noether.core.schemas.construction import construction_of
from noether.core.schemas.lib import component_of
from noether.core.schemas.models import ModelBaseConfig
from noether.core.schemas.signature import SignatureConfig


def infer_sizes(
    config: ModelBaseConfig, inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
) -> ModelBaseConfig:
    """Return the config with its sizes filled in from one training sample, where the model knows how."""
    target = component_of(config).target
    if isinstance(target, type) and issubclass(target, ModelBase):
        inferred: ModelBaseConfig = target.infer_sizes(config, inputs, targets)
        return inferred
    return config


def build_model(config: ModelBaseConfig, device: torch.device) -> ModelBase:
    """Construct the model that `config` names and move it to `device`.

    Raises:
        SpecError: The class refuses its arguments, or a `frozen` pattern matches nothing.
    """
    return construct_model(config).to(device).freeze()


def construct_model(config: ModelBaseConfig) -> ModelBase:
    """Construct the model that `config` names; a part of a composite is moved and frozen with the whole.

    Raises:
        SpecError: The class refuses its arguments.
    """
    target = component_of(config).target
    with construction_of(config):
        if issubclass(target, ModelBase):
            model: ModelBase = target(config)
            return model
        assert isinstance(config, SignatureConfig), "a foreign class has a config made from its signature"
        return AdaptedModule(target(**config.arguments()), config)
