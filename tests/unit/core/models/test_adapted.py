"""Any module as the model of a run."""

from __future__ import annotations

import copy
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from noether.core.models.build import AdaptedModule
from noether.core.models.composite import CompositeModel


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


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor, **options: float) -> torch.Tensor:
        return x * options.get("scale", 1.0)


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


def test_a_required_argument_beside_any_keyword_is_filled_in_order_if_no_property_has_its_name() -> None:
    network = Scaled()
    model = AdaptedModule(network)
    model.check_inputs(["field"])
    assert torch.equal(model(field=X), network(X))
    assert torch.equal(model(x=X, scale=2.0), network(X, scale=2.0))


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


NAMES = ["module", "_orig_mod", "model", "head", "a/b", "größe", "parametrizations"]
trees = st.recursive(
    st.just(nn.Linear), lambda inner: st.dictionaries(st.sampled_from(NAMES), inner, min_size=1), max_leaves=6
)


def network_of(tree: Any) -> nn.Module:
    """Return modules of these names, and a parameter and a buffer beside them."""
    if tree is nn.Linear:
        return nn.Linear(1, 2)
    network = nn.Module()
    network.register_parameter("bias", nn.Parameter(torch.ones(1)))
    network.register_buffer("mean", torch.ones(1))
    for name, child in tree.items():
        network.add_module(name, network_of(child))
    return network


@given(trees)
def test_whatever_its_children_are_called_every_name_is_the_module_s_own(tree: Any) -> None:
    network, other = network_of(tree), network_of(tree)
    names, parameters = list(network.state_dict()), list(dict(network.named_parameters()))
    model = AdaptedModule(network)
    assert list(model.state_dict()) == names
    assert list(dict(model.named_parameters())) == parameters
    composite = CompositeModel(parts={"module": model, "part": AdaptedModule(other)})
    assert list(composite.state_dict()) == [f"{part}.{name}" for part in ("module", "part") for name in names]
    assert list(dict(composite.named_parameters("p"))) == [
        f"p.{part}.{name}" for part in ("module", "part") for name in parameters
    ]
    assert len(dict(composite.named_buffers())) == 2 * len(dict(network.named_buffers()))
    saved = {name: torch.full_like(value, place) for place, (name, value) in enumerate(composite.state_dict().items())}
    composite.load_state_dict(saved)
    assert all(torch.equal(value, saved[name]) for name, value in composite.state_dict().items())


class WithOptions(nn.Linear):
    """Writes its options into its state without the prefix that it is given, and takes them out again."""

    def state_dict(self, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        state = super().state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
        state["_metadata"] = {"features": self.in_features}
        return state

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        assert state_dict.pop("_metadata") == {"features": self.in_features}
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


def test_a_part_that_overrides_saving_and_loading_does_both_itself() -> None:
    def composite() -> CompositeModel:
        return CompositeModel(parts={"a": AdaptedModule(WithOptions(1, 2)), "b": AdaptedModule(WithOptions(2, 2))})

    trained, fresh = composite(), composite()
    state = trained.state_dict()
    assert (state["a._metadata"], state["b._metadata"]) == ({"features": 1}, {"features": 2})
    fresh.load_state_dict(state)
    assert torch.equal(fresh.a.weight, trained.a.weight)
    missing, unexpected = fresh.load_state_dict({**state, "a.more": torch.ones(1)}, strict=False)
    assert (missing, unexpected) == ([], ["a.more"])


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


def test_attributes_are_set_on_the_module_itself() -> None:
    model = AdaptedModule(ByName())
    model.linear = nn.Linear(3, 2, bias=False)
    model.scale = 2.0
    model.register_buffer("seen", torch.zeros(1))
    model.name = "net"
    assert model.module.linear is model.linear
    assert (model.module.scale, model.name) == (2.0, "net")
    assert sorted(model.state_dict()) == ["linear.weight", "seen"]
    del model.linear
    assert not hasattr(model.module, "linear")


def test_a_copy_and_another_module_keep_working() -> None:
    model = copy.deepcopy(AdaptedModule(ByOrder()))
    model.module = ByName()
    assert model.linear is model.module.linear
