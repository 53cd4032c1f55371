"""The built-in multilayer perceptron."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from noether.core.models.mlp import MLP, MLPConfig
from noether.errors import SpecError

shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)
properties = st.dictionaries(st.sampled_from(["angle", "image", "points"]), shapes, min_size=1)


def mlp(**settings: Any) -> MLP:
    return MLP(MLPConfig(kind="mlp", **settings))


@given(properties, properties, st.integers(1, 3))
def test_outputs_have_the_shapes_of_the_targets_that_sizes_were_inferred_from(
    inputs: dict[str, tuple[int, ...]], targets: dict[str, tuple[int, ...]], batch: int
) -> None:
    config = MLP.infer_sizes(
        MLPConfig(kind="mlp", hidden=[4]),
        {name: torch.zeros(shape) for name, shape in inputs.items()},
        {name: torch.zeros(shape) for name, shape in targets.items()},
    )
    outputs = MLP(config)(**{name: torch.zeros(batch, *shape) for name, shape in inputs.items()})
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        name: (batch, *shape) for name, shape in targets.items()
    }


def test_given_sizes_win_over_inferred_ones() -> None:
    config = MLPConfig(kind="mlp", out_features={"label": 10})
    found = MLP.infer_sizes(config, {"image": torch.zeros(1, 8, 8)}, {"label": torch.tensor(3)})
    assert (found.in_features, found.out_features) == ({"image": 64}, {"label": 10})
    assert config.in_features is None  # the config as it was given stays as it is


def test_inputs_are_taken_by_name_whatever_their_order() -> None:
    model = mlp(hidden=[4], in_features={"a": 2, "b": 3}, out_features={"y": 1})
    a, b = torch.randn(5, 2), torch.randn(5, 3)
    assert torch.equal(model(a=a, b=b)["y"], model(b=b, a=a)["y"])


@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
def test_whole_numbers_are_inputs_like_others(names: list[str]) -> None:
    model = mlp(hidden=[4], in_features=dict.fromkeys(names, 2), out_features={"y": 1})
    whole = {name: torch.tensor([[1, 2], [3, 4]]) for name in names}
    assert torch.equal(model(**whole)["y"], model(**{name: values.float() for name, values in whole.items()})["y"])


def test_hidden_layers_are_those_of_the_config() -> None:
    model = mlp(hidden=[5, 7], activation="tanh", dropout=0.5, in_features={"x": 3}, out_features={"y": 2})
    kinds = [type(layer) for layer in model.layers]
    assert kinds == [nn.Linear, nn.Tanh, nn.Dropout, nn.Linear, nn.Tanh, nn.Dropout, nn.Linear]
    assert [layer.out_features for layer in model.layers if isinstance(layer, nn.Linear)] == [5, 7, 2]


def test_without_hidden_layers_it_is_a_linear_map() -> None:
    model = mlp(hidden=[], in_features={"x": 3}, out_features={"y": 2})
    x = torch.randn(4, 3)
    assert torch.equal(model(x=x)["y"], model.layers[0](x))


def test_octaves_feed_sines_and_cosines_of_doubling_frequencies() -> None:
    model = mlp(hidden=[], octaves=2, in_features={"x": 1}, out_features={"y": 1})
    x = torch.tensor([[0.3]])
    features = torch.tensor([[0.3, *(torch.tensor([0.3, 0.6]).sin()), *(torch.tensor([0.3, 0.6]).cos())]])
    assert torch.allclose(model(x=x)["y"], model.layers[0](features))


def test_an_input_that_is_not_a_forward_property_is_refused_before_training() -> None:
    model = mlp(in_features={"a": 2, "b": 3}, out_features={"y": 1})
    model.check_inputs(["b", "a"])
    with pytest.raises(SpecError) as caught:
        model.check_inputs(["a"])
    assert "['b']" in caught.value.message


@pytest.mark.parametrize("settings", [{"dropout": 1.0}, {"activation": "sigmoid"}, {"octaves": -1}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as error:
        MLPConfig(kind="mlp", **settings)
    assert [found["loc"] for found in error.value.errors()] == [(name,) for name in settings]
