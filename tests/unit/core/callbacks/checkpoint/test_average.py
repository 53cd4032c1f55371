"""One moving average of a model's weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from noether.core.callbacks.checkpoint.averages import Average, FlatParameters
from noether.core.models.weights import LiveWeights
from noether.errors import SpecError, TrainingError


class Net(nn.Module):
    """Has all that a model may have: tied weights, persistent and passing buffers, a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.decoder = nn.Linear(3, 3)
        self.decoder.weight = self.encoder.weight
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("passing", torch.ones(2), persistent=False)


def net(seed: int = 0) -> Net:
    generator = torch.Generator().manual_seed(seed)
    model = Net()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def move(model: nn.Module, generator: torch.Generator) -> None:
    """Stand in for an optimizer step and the buffers of a forward pass."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "num_batches_tracked")):
                buffer += 1


@given(
    factor=st.sampled_from([0.0, 0.5, 0.9, 0.999]),
    updates=st.integers(1, 30),
    seed=st.integers(0, 999),
    flat=st.booleans(),
    masked=st.sets(st.integers(0, 29)),
)
@torch.no_grad()
def test_an_average_agrees_with_a_loop_in_double_precision(
    factor: float, updates: int, seed: int, flat: bool, masked: set[int]
) -> None:
    model, generator = net(seed), torch.Generator().manual_seed(seed)
    live = LiveWeights(model)
    average = Average(live, factor, FlatParameters(list(live.parameters.values())) if flat else None)
    expected = {name: parameter.double().clone() for name, parameter in model.named_parameters()}
    for update in range(updates):
        move(model, generator)
        average.update(torch.tensor(0.0 if update in masked else 1.0) if masked else None)
        if update not in masked:
            for name, parameter in model.named_parameters():
                expected[name] = factor * expected[name] + (1 - factor) * parameter.double()
    for name, value in expected.items():
        torch.testing.assert_close(average.state()[name].double(), value, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_buffers_are_those_of_the_last_applied_update() -> None:
    model, generator = net(), torch.Generator().manual_seed(0)
    average = Average(LiveWeights(model), 0.9)
    move(model, generator)
    average.update()
    move(model, generator)
    average.update(torch.tensor(0.0))
    assert average.state()["norm.running_mean"].tolist() == [1.0, 1.0, 1.0]
    assert average.state()["norm.num_batches_tracked"] == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_weights_in_half_precision_are_averaged_in_single(dtype: torch.dtype) -> None:
    model = nn.Linear(2, 2).to(dtype)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average = Average(LiveWeights(model), 0.999)
    model.weight.fill_(2.0)
    for _ in range(10):
        average.update()
    found = average.state()["weight"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.full((2, 2), 2 - 0.999**10), rtol=1e-5, atol=0.0)
    with average.in_place_of_live(exchange=True):
        assert model.weight.dtype == dtype


def test_the_state_loads_strictly_into_the_model_and_holds_tied_weights_once() -> None:
    average = Average(LiveWeights(net()), 0.9)
    state = average.state()
    assert state["decoder.weight"] is state["encoder.weight"]
    assert "passing" not in state
    net().load_state_dict(state, strict=True)


def test_a_part_is_averaged_under_the_names_of_the_whole_model() -> None:
    state = Average(LiveWeights(net(), "norm"), 0.9).state()
    assert set(state) == {f"norm.{name}" for name in nn.BatchNorm1d(3).state_dict()}


def test_an_unknown_path_of_weights_is_reported_with_the_existing_ones() -> None:
    with pytest.raises(SpecError) as caught:
        LiveWeights(net(), "enc")
    assert "'enc'" in caught.value.message
    assert "encoder, norm, decoder" in str(caught.value)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("fails", [True, False])
@torch.no_grad()
def test_the_model_has_the_averages_inside_and_its_own_weights_afterwards(exchange: bool, fails: bool) -> None:
    model, generator = net(), torch.Generator().manual_seed(0)
    average = Average(LiveWeights(model), 0.9)
    move(model, generator)
    average.update()
    before, inside = snapshot(model), {}
    parameters = list(model.parameters())
    try:
        with average.in_place_of_live(exchange=exchange):
            inside = snapshot(model)
            if fails:
                raise RuntimeError("a child failed")
    except RuntimeError:
        assert fails
    assert same(inside, average.state())
    assert not same(inside, before)
    assert same(snapshot(model), before)
    assert all(now is then for now, then in zip(model.parameters(), parameters, strict=True))


@torch.no_grad()
def test_exchanging_copies_no_values() -> None:
    model = net()
    average = Average(LiveWeights(model), 0.9)
    own = model.scale.data_ptr()
    with average.in_place_of_live(exchange=True):
        assert model.scale.data_ptr() == average.state()["scale"].data_ptr()
    assert model.scale.data_ptr() == own


@torch.no_grad()
def test_what_evaluation_does_to_buffers_does_not_reach_the_averages() -> None:
    model = net()
    average = Average(LiveWeights(model), 0.9)
    with average.in_place_of_live(exchange=True):
        model.norm.running_mean += 7
    assert average.state()["norm.running_mean"].tolist() == [0.0, 0.0, 0.0]
    assert model.norm.running_mean.tolist() == [0.0, 0.0, 0.0]


# Flat parameters


def test_moving_parameters_into_one_buffer_changes_no_value() -> None:
    model = net()
    before = snapshot(model)
    flat = FlatParameters(list(model.parameters()))
    assert same(snapshot(model), before)
    with torch.no_grad():
        flat.buffer.zero_()
    assert all(not parameter.any() for parameter in model.parameters())


def test_parameters_that_left_the_buffer_are_noticed() -> None:
    model = net()
    flat = FlatParameters(list(model.parameters()))
    flat.check()
    list(model.parameters())[-1].data = torch.ones(3)
    with pytest.raises(TrainingError) as error:
        flat.check()
    assert "flat_parameters" in error.value.message


def test_a_second_buffer_that_takes_some_of_the_parameters_is_noticed() -> None:
    model = net()
    flat = FlatParameters(list(model.parameters()))
    FlatParameters(list(model.encoder.parameters()))
    with pytest.raises(TrainingError) as error:
        flat.check()
    assert "flat_parameters" in error.value.message


def test_the_extra_state_of_a_module_is_left_alone() -> None:
    class WithExtraState(nn.Linear):
        def get_extra_state(self) -> Tensor:
            return torch.ones(2)

        def set_extra_state(self, state: Any) -> None:
            pass

    average = Average(LiveWeights(WithExtraState(2, 2)), 0.5)
    assert set(average.state()) == {"weight", "bias"}


def test_parameters_of_half_precision_cannot_be_flat() -> None:
    with pytest.raises(SpecError) as error:
        FlatParameters(list(nn.Linear(2, 2).to(torch.bfloat16).parameters()))
    assert "found torch.bfloat16 on cpu" in error.value.message
