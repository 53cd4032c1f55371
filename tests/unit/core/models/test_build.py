"""Models built from a spec's model table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from noether.core.models.build import AdaptedModule, build_model, infer_sizes
from noether.core.models.mlp import MLP
from noether.errors import SpecError

CPU = torch.device("cpu")
SAMPLE = {"x": torch.zeros(3)}, {"y": torch.zeros(2)}
ModelConfig = Callable[..., Any]


def test_sizes_that_a_spec_leaves_out_come_from_a_sample(model_config: ModelConfig) -> None:
    config = infer_sizes(model_config("mlp"), *SAMPLE)
    model = build_model(config, CPU)
    assert isinstance(model, MLP)
    assert model(x=torch.zeros(4, 3))["y"].shape == (4, 2)


def test_inferred_config_still_knows_what_it_is_for(model_config: ModelConfig) -> None:
    assert infer_sizes(model_config("MLP"), *SAMPLE).kind == "mlp"


def test_a_foreign_class_is_adapted_with_the_arguments_of_its_table(model_config: ModelConfig) -> None:
    config = model_config("foreign_networks.Shifted", width=5, bias=False, frozen=["linear.*"])
    model = build_model(infer_sizes(config, *SAMPLE), CPU)
    assert isinstance(model, AdaptedModule)
    assert [tuple(parameter.shape) for parameter in model.parameters()] == [(5, 3)]
    assert model.is_frozen


def test_a_class_that_refuses_its_arguments_is_a_spec_error(model_config: ModelConfig) -> None:
    with pytest.raises(SpecError) as error:
        build_model(model_config("foreign_networks.Refuses"), CPU)
    assert "'foreign_networks.Refuses' (project code)" in error.value.message
    assert "ValueError: width must be positive" in error.value.message


def test_frozen_patterns_of_the_table_take_effect(model_config: ModelConfig) -> None:
    config = infer_sizes(model_config("mlp", hidden=[4], frozen=["layers.0.*"]), *SAMPLE)
    frozen = [name for name, p in build_model(config, CPU).named_parameters() if not p.requires_grad]
    assert frozen == ["layers.0.weight", "layers.0.bias"]
