"""Any module as the model of a run."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from noether.core.models.build import AdaptedModule


class ByName(nn.Module):
    """Its arguments are called as the properties of the data are, in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, shift: Tensor, x: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        return {"y": scale * self.linear(x) + shift}


class ByOrder(nn.Module):
    """Its arguments have names of their own."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first - second


class TakesAnything(nn.Module):
    """It wants every property by name."""

    def forward(self, **properties: Tensor) -> Tensor:
        return torch.stack([properties["x"], properties["y"]])


X, SHIFT = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[10.0, 20.0]])


def test_properties_that_forward_names_are_passed_by_name() -> None:
    network = ByName()
    assert torch.equal(AdaptedModule(network)(x=X, shift=SHIFT)["y"], network(SHIFT, X)["y"])


def test_other_properties_are_passed_in_their_order() -> None:
    model = AdaptedModule(ByOrder())
    assert model(x=torch.tensor(5), y=torch.tensor(2)) == 3
    assert model(y=torch.tensor(2), x=torch.tensor(5)) == -3


def test_a_module_that_takes_any_keyword_gets_names() -> None:
    assert AdaptedModule(TakesAnything())(x=torch.ones(1), y=torch.zeros(1)).tolist() == [[1.0], [0.0]]


def test_a_torch_module_takes_the_only_property_whatever_its_name() -> None:
    network = nn.Sequential(nn.Linear(3, 2))
    assert torch.equal(AdaptedModule(network)(anything=X), network(X))


def test_names_in_checkpoints_are_the_module_s_own() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    model = AdaptedModule(network)
    assert list(model.state_dict()) == list(network.state_dict())
    assert dict(model.named_parameters()).keys() == dict(network.named_parameters()).keys()
    assert list(model.parameters()) == list(network.parameters())


def test_the_module_s_own_state_loads_back() -> None:
    trained, fresh = nn.Linear(3, 2), nn.Linear(3, 2)
    AdaptedModule(fresh).load_state_dict(trained.state_dict())
    assert torch.equal(fresh.weight, trained.weight)


def test_modes_and_devices_reach_the_module() -> None:
    network = nn.Dropout()
    AdaptedModule(network).eval()
    assert not network.training


def test_what_else_the_module_can_do_is_found_through_the_wrapper() -> None:
    network = nn.Bilinear(3, 2, 1)
    model = AdaptedModule(network)
    assert model.in2_features == 2
    assert model.reset_parameters == network.reset_parameters
    assert model.device == torch.device("cpu")


def test_what_neither_has_is_an_attribute_error_of_the_wrapper() -> None:
    model = AdaptedModule(nn.Linear(3, 2))
    assert not hasattr(model, "get_embeddings")
    assert hasattr(copy.deepcopy(model), "weight")
