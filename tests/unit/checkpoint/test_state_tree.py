"""States without pickle: a round trip changes nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from noether.checkpoint.state_tree import join_state, split_state
from noether.checkpoint.tensor_file import decode_tensors, encode_tensors
from noether.errors import TrainingError

DTYPES = [torch.float32, torch.complex64, torch.complex128, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
tensors = st.builds(
    lambda shape, dtype, seed: (10 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(DTYPES),
    st.integers(0, 9),
)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.sampled_from(["a", "a/b", "$tensor", "1"])
leaves = st.none() | st.booleans() | st.integers() | st.floats() | text | tensors | st.binary() | st.complex_numbers()
keys = text | st.integers(-2, 2) | st.tuples(st.integers(0, 1), text)
states = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(keys, inner),
    max_leaves=8,
)


def same(found: Any, expected: Any) -> bool:
    """Compare type by type, tensors by bytes, NaN equal to itself."""
    if type(found) is not type(expected):
        return False
    if isinstance(expected, Tensor):
        alike = found.dtype == expected.dtype and found.shape == expected.shape
        return alike and torch.equal(found.contiguous().view(-1), expected.contiguous().view(-1))
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, complex):
        return same(found.real, expected.real) and same(found.imag, expected.imag)
    if isinstance(expected, float):
        return found == expected or (math.isnan(found) and math.isnan(expected))
    return bool(found == expected)


def through_files(state: Any) -> Any:
    """Return a state after a round trip: the tree as JSON, the tensors as a safetensors file."""
    tree, held = split_state(state, "a test")
    text = json.dumps(tree, sort_keys=True, allow_nan=False)
    return join_state(json.loads(text), decode_tensors(*encode_tensors(held)))


@given(states)
def test_a_state_survives_json_and_safetensors(state: Any) -> None:
    assert same(through_files(state), state)


@pytest.mark.parametrize(
    "make",
    [
        lambda a, b: {"a/b": a, "a": {"b": b}},
        lambda a, b: {1: a, "1": b},
        lambda a, b: {"": a, "value": b},
        lambda a, b: {"a/b": {"c": a}, "a": {"b/c": b}},
    ],
)
def test_two_tensors_at_places_that_are_spelled_alike_stay_two(make: Callable[[Tensor, Tensor], Any]) -> None:
    state = make(torch.tensor(1.0), torch.tensor(2.0))
    assert same(through_files(state), state)


def test_one_tensor_at_two_places_stays_one() -> None:
    tensor = torch.ones(3)
    joined = through_files({"live": tensor, "kept": [tensor]})
    assert joined["live"] is joined["kept"][0]


def test_tensors_are_named_by_their_place() -> None:
    tree, held = split_state({"ema": [torch.zeros(1), torch.zeros(1)], "best": torch.zeros(())}, "a test")
    assert set(held) == {"ema/0", "ema/1", "best"}
    assert tree["ema"][1] == {"$tensor": "ema/1"}


def test_saved_tensors_carry_no_graph() -> None:
    _, held = split_state({"w": torch.ones(2, requires_grad=True)}, "a test")
    assert not held["w"].requires_grad


@pytest.mark.parametrize("foreign", [Path("x"), {1, 2}, torch.relu, object()], ids=lambda value: type(value).__name__)
def test_a_state_of_another_type_is_refused_with_owner_and_place(foreign: Any) -> None:
    with pytest.raises(TrainingError) as caught:
        split_state({"best": [1.0, foreign]}, "callback 'ema'")
    assert type(foreign).__name__ in str(caught.value)
    assert "'ema'" in str(caught.value)
    assert "'best/1'" in str(caught.value)
