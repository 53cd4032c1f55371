"""Averages of models with tensors of every type, layout and size."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from noether.core.callbacks.checkpoint.averages import Average, flattened, load_averages
from noether.core.models.weights import LiveWeights, shares_memory
from noether.errors import SpecError

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.float8_e4m3fn]
WHOLE = [torch.int64, torch.int32, torch.uint8, torch.bool]
LAYOUTS = ["plain", "transposed", "column", "twin", "expanded", "empty", "scalar"]
FACTOR = 0.75


class Odd(nn.Module):
    """Has a parameter of each given type and layout, a buffer that grows, and one that begins as None."""

    def __init__(self, kinds: list[tuple[torch.dtype, str]], seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        storages = {dtype: torch.ones(4, 8).to(dtype) for dtype, _ in kinds}
        for index, (dtype, layout) in enumerate(kinds):
            own = (torch.randn(4, 3, generator=generator) * 3).to(dtype)
            value = {
                "plain": own,
                "transposed": own.T,
                "column": storages[dtype][:, index : index + 1],
                "twin": storages[dtype][:, 7],
                "expanded": own[:1].expand(4, 3),
                "empty": own[:0],
                "scalar": own[0, 0],
            }[layout]
            self.register_parameter(f"p{index}", nn.Parameter(value, requires_grad=False))
        self.register_buffer("grows", torch.zeros(0, 2))
        self.register_buffer("late", None)

    def train_for_one_update(self, update: int) -> None:
        for parameter in self.parameters():
            if parameter.numel() and 0 not in parameter.stride():
                parameter.copy_((parameter.to(torch.complex64) * 0.5 + update).real.to(parameter.dtype))
        self.grows = torch.cat([self.grows, torch.full((1, 2), float(update))])
        if update == 1:
            self.late = torch.tensor([1.0])


def kinds_of(dtypes: list[torch.dtype]) -> st.SearchStrategy[list[tuple[torch.dtype, str]]]:
    return st.lists(st.tuples(st.sampled_from(dtypes), st.sampled_from(LAYOUTS)), min_size=1, max_size=4)


def averaged_by_hand(average: Tensor, weight: Tensor) -> Tensor:
    if weight.dtype in WHOLE:
        return weight.clone()
    return FACTOR * average.to(torch.complex128) + (1 - FACTOR) * weight.to(torch.complex128)


@settings(max_examples=100)
@given(
    kinds=kinds_of([*FLOATS, *WHOLE]), masked=st.booleans(), skipped=st.sets(st.integers(0, 2)), exchange=st.booleans()
)
@torch.no_grad()
def test_the_average_of_any_tensor_is_that_of_a_loop(
    kinds: list[tuple[torch.dtype, str]], masked: bool, skipped: set[int], exchange: bool
) -> None:
    model = Odd(kinds)
    average = Average(LiveWeights(model), FACTOR)
    expected = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for update in range(3):
        model.train_for_one_update(update)
        average.update(torch.tensor(float(update not in skipped)) if masked else None)
        if not (masked and update in skipped):
            expected = {name: averaged_by_hand(expected[name], p) for name, p in model.named_parameters()}
    state = average.state()
    for name, value in expected.items():
        assert value.dtype not in WHOLE or state[name].dtype == value.dtype
        found, value = state[name].to(torch.complex128), value.to(torch.complex128)
        torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-5)
    before, inside = copy.deepcopy(model.state_dict()), {}
    with average.in_place_of_live(exchange=exchange):
        inside = copy.deepcopy(model.state_dict())
    assert all(inside[name].dtype == tensor.dtype for name, tensor in before.items())
    assert all(torch.equal(inside[name], state[name].to(tensor.dtype)) for name, tensor in before.items())
    assert all(map(torch.equal, model.state_dict().values(), before.values()))


@settings(max_examples=50)
@given(
    kinds=st.sampled_from([torch.float32, torch.float64, torch.complex64]).flatmap(lambda one: kinds_of([one, *WHOLE])),
    masked=st.booleans(),
)
@torch.no_grad()
def test_flat_averages_are_those_of_single_tensors(kinds: list[tuple[torch.dtype, str]], masked: bool) -> None:
    flat, plain = Odd(kinds), Odd(kinds)
    try:
        live = LiveWeights(flat)
        averages = Average(live, FACTOR, flattened(live)), Average(LiveWeights(plain), FACTOR)
    except SpecError as refusal:
        shared = sum(layout in ("column", "twin") for _, layout in kinds) > 1
        assert shared or "found none" in refusal.message
        return
    for update in range(3):
        for model, average in zip((flat, plain), averages, strict=True):
            model.train_for_one_update(update)
            average.update(torch.tensor(float(update != 1)) if masked else None)
    assert all(map(torch.equal, flat.state_dict().values(), plain.state_dict().values()))
    torch.testing.assert_close(averages[0].state(), averages[1].state())


@torch.no_grad()
def test_parameters_in_the_same_memory_cannot_be_flat() -> None:
    model = Odd([(torch.float32, "twin"), (torch.float32, "twin")])
    with pytest.raises(SpecError) as caught:
        flattened(LiveWeights(model))
    assert "'p0' and 'p1'" in caught.value.message


@torch.no_grad()
def test_buffers_that_grew_since_the_last_update_that_counted_are_as_they_were_then() -> None:
    model = Odd([(torch.float32, "plain")])
    average = Average(LiveWeights(model), FACTOR)
    for update, applied in enumerate((1.0, 1.0, 0.0)):
        model.train_for_one_update(update)
        average.update(torch.tensor(applied))
    assert average.state()["grows"].tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert average.state()["late"].tolist() == [1.0]
    with average.in_place_of_live(exchange=True):
        assert len(model.grows) == 2
    assert len(model.grows) == 3


@torch.no_grad()
def test_saved_copies_of_another_size_are_loaded() -> None:
    model = Odd([(torch.float32, "plain")])
    average = Average(LiveWeights(model), FACTOR)
    saved = {**average.state(), "grows": torch.ones(5, 2)}
    load_averages([average], saved, "the file")
    assert torch.equal(average.state()["grows"], torch.ones(5, 2))


def test_a_buffer_that_is_a_view_of_a_weight_forbids_an_exchange_of_storages() -> None:
    model = nn.Linear(2, 2)
    assert not shares_memory(model)
    model.register_buffer("turned", model.weight.detach().T, persistent=False)
    assert shares_memory(model)
