"""Models built from a spec's model table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from noether.core.models.build import AdaptedModule, build_model, infer_sizes, recompute_matching
from noether.core.models.composite import CompositeModel
from noether.core.models.mlp import MLP
from noether.core.models.recompute import recomputed
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


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["blocks.*"], ["blocks.0", "blocks.1"]),
        (["blocks.0.norm", "blocks.*.wide"], ["blocks.0.wide", "blocks.0.norm", "blocks.1.wide"]),
        (["blocks.1", "blocks.1.*", "blocks.*.norm"], ["blocks.0.norm", "blocks.1"]),
        (["*"], ["blocks.0", "blocks.1", "act", "head"]),
        (["again"], ["again"]),
        (["again", "blocks.*"], ["blocks.0", "again"]),
        (["act"], ["act"]),
    ],
)
def test_the_outermost_modules_that_match_are_recomputed(
    model_config: ModelConfig, patterns: list[str], names: list[str]
) -> None:
    """A list of modules is never called, the model as a whole stays as it is, and a shared module counts once."""
    model = build_model(model_config("foreign_networks.Stack", checkpoint=patterns), CPU)
    assert recomputed(model) == names
    model(x=torch.zeros(4, 3)).sum().backward()


def test_patterns_of_a_part_match_within_it_and_those_of_a_composite_everywhere(model_config: ModelConfig) -> None:
    parts = {name: model_config("foreign_networks.Stack", checkpoint=["blocks.1"]) for name in ("a", "b")}

    class Both(CompositeModel):
        """Two stacks."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x=x) + self.b(x=x)

    config = model_config("foreign_networks.Stack", checkpoint=["a.blocks.*", "b.blocks.0.wide"])
    model = Both(config, parts=parts)
    recompute_matching(model)
    assert recomputed(model) == ["a.blocks.0", "a.blocks.1", "b.blocks.0.wide", "b.blocks.1"]


def test_a_part_with_the_config_of_its_composite_takes_the_patterns_once(model_config: ModelConfig) -> None:
    config = model_config("foreign_networks.Stack", checkpoint=["a.blocks.0"])
    plain = build_model(model_config("foreign_networks.Stack"), CPU)
    model = CompositeModel(config, parts={"a": AdaptedModule(plain.module, config)})
    recompute_matching(model)
    assert recomputed(model) == ["a.blocks.0"]


def test_a_pattern_that_matches_no_called_module_shows_the_nearest_names(model_config: ModelConfig) -> None:
    for pattern in ("block.0", "blocks", "blocks.0.weight"):
        with pytest.raises(SpecError) as error:
            build_model(model_config("foreign_networks.Stack", checkpoint=[pattern]), CPU)
        assert error.value.hint is not None
        assert error.value.hint.startswith("modules have names such as ")
        assert "blocks.0" in error.value.hint
