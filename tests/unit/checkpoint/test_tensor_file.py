"""Tensors as bytes."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load
from torch import nn

from noether.checkpoint.tensor_file import decode_tensors, encode_tensors

values = st.integers(0, 5).map(lambda n: torch.arange(float(n)))
files = st.dictionaries(st.text("abc./", min_size=1, max_size=4), values)


@given(files, st.randoms())
def test_equal_states_are_equal_bytes_whatever_their_order(tensors: dict[str, torch.Tensor], random: object) -> None:
    shuffled = list(tensors.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis' random has it
    again = {name: tensor.clone() for name, tensor in shuffled}
    assert encode_tensors(again) == encode_tensors(tensors)


@given(files)
def test_tensors_come_back_by_name(tensors: dict[str, torch.Tensor]) -> None:
    decoded = decode_tensors(*encode_tensors(tensors))
    assert decoded.keys() == tensors.keys()
    assert all(torch.equal(decoded[name], tensors[name]) for name in tensors)


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    return model


def test_tied_weights_are_written_once_and_read_as_one() -> None:
    data, aliases = encode_tensors(tied().state_dict())
    assert aliases == {"1.weight": "0.weight"}
    assert list(load(data)) == ["0.weight"]
    decoded = decode_tensors(data, aliases)
    assert decoded["1.weight"] is decoded["0.weight"]


def test_tied_weights_load_strictly_into_the_model() -> None:
    model, fresh = tied(), tied()
    fresh.load_state_dict(decode_tensors(*encode_tensors(model.state_dict())), strict=True)
    assert torch.equal(fresh[1].weight, model[0].weight)


def test_views_of_one_memory_are_kept_apart() -> None:
    memory = torch.arange(6.0)
    tensors = {"whole": memory, "head": memory[:3], "tail": memory[3:], "matrix": memory.view(2, 3), "t": memory[::2]}
    data, aliases = encode_tensors(tensors)
    assert aliases == {}
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in decode_tensors(data, {}).items())


def test_a_transposed_tensor_keeps_its_values() -> None:
    tensor = torch.arange(6.0).view(2, 3).t()
    assert torch.equal(decode_tensors(*encode_tensors({"t": tensor}))["t"], tensor)


def test_empty_tensors_are_no_aliases_of_one_another() -> None:
    assert encode_tensors({"a": torch.zeros(0), "b": torch.zeros(0)})[1] == {}


def test_a_decoded_tensor_belongs_to_the_reader() -> None:
    data, aliases = encode_tensors({"w": torch.zeros(2)})
    decode_tensors(data, aliases)["w"].add_(1)
    assert torch.equal(decode_tensors(data, aliases)["w"], torch.zeros(2))
