"""Parts with optimizers of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from noether.config.components import ModelBaseConfig
from noether.core.models.build import AdaptedModule
from noether.core.models.composite import CompositeModel
from noether.errors import SpecError
from noether.testing import make_model

LENGTH = {"total_updates": 10, "updates_per_epoch": 5}


class Chain(CompositeModel):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.get_submodule("decoder")(x=self.get_submodule("encoder")(x=x)["y"])


def chain(**decoder: Any) -> Chain:
    return Chain(
        parts={
            "encoder": make_model(seed=1, optimizer={"kind": "SGD", "lr": 0.4, "schedule": "linear"}),
            "decoder": make_model(seed=2, in_features={"x": 2}, **decoder),
        }
    )


def one_update(model: CompositeModel, update: int = 5) -> set[str]:
    """Train for one update and return the names of the parameters that moved."""
    model.initialize_optimizer(**LENGTH)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.optimizer_schedule_step(update)
    model(x=torch.ones(2, 3))["y"].square().sum().backward()
    model.optimizer_step()
    model.optimizer_zero_grad()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def test_parts_are_attributes_named_after_their_keys() -> None:
    model = chain()
    assert list(model.submodels) == ["encoder", "decoder"]
    assert model.submodels["encoder"] is model.encoder
    assert model.submodels["encoder"].name == "encoder"
    assert {key.split(".")[0] for key in model.state_dict()} == {"encoder", "decoder"}


def test_each_part_moves_at_its_own_rate() -> None:
    model = chain()
    assert one_update(model) == set(model.state_dict())
    assert {name: optimizer.lr for name, optimizer in model.optimizers().items()} == {"encoder": 0.2, "decoder": 0.1}
    assert model.gradients() == []


def test_a_frozen_part_stays_and_has_no_optimizer() -> None:
    model = chain(frozen=["*"], optimizer=None).freeze()
    assert one_update(model) == {name for name in model.state_dict() if name.startswith("encoder.")}
    assert list(model.optimizers()) == ["encoder"]


def test_parameters_of_parts_that_are_plain_modules_are_named_as_in_checkpoints() -> None:
    inner = Chain(ModelBaseConfig(), parts={"encoder": AdaptedModule(torch.nn.Linear(3, 2)), "decoder": make_model()})
    model = Chain(ModelBaseConfig(frozen=["body.encoder.*"]), parts={"body": inner}).freeze()
    assert {name for name, _ in model.named_parameters()} == set(model.state_dict())
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"body.encoder.weight", "body.encoder.bias"}


def test_a_part_without_an_optimizer_is_refused_by_name() -> None:
    with pytest.raises(SpecError) as error:
        chain(optimizer=None).initialize_optimizer(**LENGTH)
    assert "'decoder'" in error.value.message


def test_parts_of_a_composite_inside_a_composite_train_too() -> None:
    class Outer(CompositeModel):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return self.get_submodule("body")(x=x)

    model = Outer(parts={"body": chain()})
    assert one_update(model) == set(model.state_dict())
    assert list(model.optimizers()) == ["body.encoder", "body.decoder"]


def test_parts_may_be_given_as_the_configs_to_build_them_from() -> None:
    configs = {name: part.model_config for name, part in chain().submodels.items()}
    model = Chain(parts={name: config for name, config in configs.items() if config is not None})
    assert one_update(model) == set(chain().state_dict())


def test_the_composite_s_optimizer_trains_parts_that_name_none_however_deep() -> None:
    config = ModelBaseConfig(optimizer={"kind": "SGD", "lr": 0.7})
    model = Chain(config, parts={"encoder": chain(optimizer=None), "decoder": make_model()})
    model.initialize_optimizer(**LENGTH)
    rates = {name: optimizer.lr for name, optimizer in model.optimizers().items()}
    assert rates == {"encoder.encoder": 0.4, "encoder.decoder": 0.7, "decoder": 0.1}


def test_a_parameter_that_no_part_holds_is_refused_unless_it_is_frozen() -> None:
    model = chain()
    model.scale = torch.nn.Parameter(torch.ones(()))
    with pytest.raises(SpecError) as error:
        model.initialize_optimizer(**LENGTH)
    assert all(fact in error.value.message for fact in ("'scale'", "'model'", "found 0 parts"))
    model.scale.requires_grad_(False)
    model.initialize_optimizer(**LENGTH)


def test_a_parameter_that_two_parts_share_is_refused() -> None:
    model = chain()
    decoder = model.get_submodule("decoder")
    decoder.tied = model.get_parameter("encoder.layers.0.weight")
    with pytest.raises(SpecError) as error:
        model.initialize_optimizer(**LENGTH)
    assert all(fact in error.value.message for fact in ("'encoder.layers.0.weight'", "found 2 parts"))


@pytest.mark.parametrize("names", [["optimizer"], ["a", "a/b"]])
def test_a_part_cannot_have_the_name_of_an_attribute_or_a_path_below_another_part(names: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        Chain(parts={name: make_model() for name in names})
    assert f"'{names[-1]}'" in caught.value.message
