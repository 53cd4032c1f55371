"""Parameters and optimizers agree: what is trained twice, not at all, or is not in the model; lazy layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from noether.core.models.agreement import require_agreement, require_same_names, require_sizes, state_names
from noether.core.models.base import ModelBase
from noether.core.models.build import AdaptedModule
from noether.core.models.composite import CompositeModel
from noether.errors import NoetherError, SpecError, TrainingError
from noether.optim.model_optimizer import ModelOptimizer
from noether.testing import make_trainer


def model_of(**layers: nn.Module) -> AdaptedModule:
    return AdaptedModule(nn.ModuleDict(layers), None)


def optimized(model: ModelBase, *names: str) -> ModelBase:
    """Give a model an optimizer over the parameters of these names, by default all."""
    chosen = {name: p for name, p in model.named_parameters() if name in names or not names}
    optimizer = torch.optim.SGD(list(chosen.values()), lr=0.1)
    model.optimizer = ModelOptimizer(optimizer, names=list(chosen), find=model.named_parameters)
    return model


class Pair(CompositeModel):
    def __init__(self) -> None:
        super().__init__(None, parts={name: model_of(lin=nn.Linear(2, 2)) for name in ("one", "two")})


def test_tied_frozen_and_missing_parameters_agree() -> None:
    first = nn.Linear(2, 2)
    tied = nn.Linear(2, 2, bias=False)
    tied.weight = first.weight
    frozen = nn.Linear(2, 2).requires_grad_(False)
    require_agreement(optimized(model_of(first=first, tied=tied), "first.weight", "first.bias"))
    require_agreement(optimized(model_of(first=first, frozen=frozen), "first.weight", "first.bias"))
    require_agreement(model_of(nothing=nn.Identity()))
    require_agreement(model_of(evaluated=first))  # without an optimizer, as in an evaluation


def test_frozen_parameters_in_an_optimizer_agree() -> None:
    require_agreement(optimized(model_of(first=nn.Linear(2, 2).requires_grad_(False))))


def test_a_parameter_without_an_optimizer_is_named() -> None:
    with pytest.raises(TrainingError) as caught:
        require_agreement(optimized(model_of(lin=nn.Linear(2, 2)), "lin.bias"))
    assert "lin.weight" in caught.value.message
    assert "lin.bias" not in caught.value.message


def test_untied_weights_are_named() -> None:
    model = model_of(first=nn.Linear(2, 2, bias=False), tied=nn.Linear(2, 2, bias=False))
    layers: Any = model.module
    layers["tied"].weight = layers["first"].weight
    optimized(model)
    layers["tied"].weight = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(TrainingError) as caught:
        require_agreement(model)
    assert "tied.weight" in caught.value.message


def test_a_part_of_a_composite_without_an_optimizer_is_named() -> None:
    pair = Pair()
    optimized(pair.submodels["one"])
    with pytest.raises(TrainingError) as caught:
        require_agreement(pair)
    assert "two.lin.weight, two.lin.bias" in caught.value.message


def test_a_parameter_of_two_optimizers_is_named() -> None:
    pair = Pair()
    for part in pair.submodels.values():
        optimized(part)
    other: Any = pair.get_submodule("two")
    other.module["lin"].weight = pair.get_parameter("one.module.lin.weight")
    optimized(other)
    with pytest.raises(TrainingError) as caught:
        require_agreement(pair)
    assert "'lin.weight'" in caught.value.message


def test_groups_that_were_appended_by_hand_are_taken_up() -> None:
    model = optimized(model_of(lin=nn.Linear(2, 2)), "lin.bias")
    assert model.optimizer is not None
    groups = model.optimizer.torch_optimizer.param_groups
    groups.append({**groups[0], "params": [model.get_parameter("module.lin.weight")]})
    require_agreement(model)
    assert model.optimizer.names == ["lin.bias", "lin.weight"]


@pytest.mark.parametrize("layer", [nn.LazyLinear(2), nn.LazyBatchNorm1d(), nn.LazyConv2d(1, 1)], ids=type)
def test_a_trainer_built_in_python_names_a_layer_without_sizes(tmp_path: Path, layer: nn.Module) -> None:
    with pytest.raises(SpecError) as caught:
        make_trainer(tmp_path).train(model_of(lin=nn.Linear(2, 2), late=layer))
    assert "late" in caught.value.message


def test_a_layer_that_got_its_sizes_is_accepted() -> None:
    layer = nn.LazyLinear(2)
    layer(torch.ones(1, 3))
    require_sizes(model_of(late=layer))


def test_unfreezing_before_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoetherError):
        make_trainer(tmp_path).unfreeze("*")


def test_a_state_with_other_names_than_a_new_model_is_refused() -> None:
    model = model_of(lin=nn.Linear(2, 2), norm=nn.BatchNorm1d(2))
    known = state_names(model)
    assert {"lin.weight", "norm.running_mean"} < known
    model.norm.running_mean = None
    model.lin.register_buffer("passing_by", torch.ones(1), persistent=False)
    require_same_names(model, known, "a callback")
    nn.utils.parametrizations.spectral_norm(model.lin)
    with pytest.raises(TrainingError) as caught:
        require_same_names(model, known, "a callback")
    assert "lin.parametrizations.weight.original" in caught.value.message
    assert "removed lin.weight" in caught.value.message


def test_names_of_parts_are_those_of_a_checkpoint() -> None:
    model = Pair()
    assert state_names(model) == set(model.state_dict())
