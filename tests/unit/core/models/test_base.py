"""A model and its optimizer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from noether.config.components import ModelBaseConfig
from noether.core.models.base import ModelBase
from noether.core.models.build import AdaptedModule
from noether.errors import SpecError
from noether.testing import make_model

LENGTH = {"total_updates": 10, "updates_per_epoch": 5}


def trainable(model: ModelBase) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        ([], ["layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias"]),
        (["layers.0.*"], ["layers.2.weight", "layers.2.bias"]),
        (["*.bias"], ["layers.0.weight", "layers.2.weight"]),
        (["layers.0.weight", "layers.2.*"], ["layers.0.bias"]),
    ],
)
def test_frozen_patterns_leave_the_other_parameters_trainable(patterns: list[str], left: list[str]) -> None:
    assert trainable(make_model(frozen=patterns).freeze()) == left


def test_a_pattern_that_matches_nothing_is_refused_with_names_that_exist() -> None:
    with pytest.raises(SpecError) as caught:
        make_model(frozen=["encoder.*"]).freeze()
    assert "'encoder.*'" in caught.value.message
    assert "layers.0.weight" in str(caught.value)


def test_frozen_parameters_do_not_move() -> None:
    model = make_model(frozen=["layers.0.*"]).freeze()
    model.initialize_optimizer(**LENGTH)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(x=torch.ones(2, 3))["y"].square().sum().backward()
    model.optimizer_step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"layers.2.weight", "layers.2.bias"}


def test_a_model_that_is_frozen_as_a_whole_needs_no_optimizer() -> None:
    model = make_model(frozen=["*"], optimizer=None).freeze()
    model.initialize_optimizer(**LENGTH)
    assert model.is_frozen
    assert model.optimizers() == {}
    model.optimizer_schedule_step(0)
    model.optimizer_step()
    model.optimizer_zero_grad()


def test_training_without_an_optimizer_is_refused_with_what_to_add() -> None:
    with pytest.raises(SpecError) as caught:
        make_model(optimizer=None).initialize_optimizer(**LENGTH)
    assert "'model'" in caught.value.message
    assert "optimizer = {" in str(caught.value)


def test_a_model_sets_applies_and_releases() -> None:
    model = make_model(optimizer={"kind": "SGD", "lr": 0.4, "schedule": "linear"})
    model.initialize_optimizer(**LENGTH)
    model.optimizer_schedule_step(5)
    weight = model.get_parameter("layers.2.bias")
    weight.grad = torch.ones(2)
    before = weight.detach().clone()
    assert [gradient.tolist() for gradient in model.gradients()] == [[1.0, 1.0]]
    model.optimizer_step()
    assert torch.allclose(weight, before - 0.2)
    model.optimizer_zero_grad()
    assert model.gradients() == []


def test_a_model_without_parameters_is_on_the_cpu() -> None:
    class Nothing(ModelBase):
        pass

    assert Nothing().device == torch.device("cpu")


def test_device_is_that_of_its_weights() -> None:
    class OnMeta(ModelBase):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2, device="meta")

    assert OnMeta().device == torch.device("meta")


def test_a_tied_parameter_is_frozen_by_any_of_its_names() -> None:
    network = nn.ModuleDict({"embed": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    network["head"].weight = network["embed"].weight  # type: ignore[assignment]  # both are parameters
    model = AdaptedModule(network, ModelBaseConfig(kind="mine", frozen=["head.*"])).freeze()
    assert trainable(model) == ["embed.bias"]
