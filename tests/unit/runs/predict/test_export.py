"""Tensors that a checkpoint stores once and an exported file repeats."""

import torch
from safetensors.torch import load

from noether.runs.predict.export import plain_safetensors


def test_tied_weights_stand_under_each_of_their_names():
    shared = torch.arange(6.0).reshape(2, 3)
    read = load(plain_safetensors({"encoder": shared, "decoder": shared, "transposed": shared.T}))
    assert set(read) == {"encoder", "decoder", "transposed"}
    assert torch.equal(read["decoder"], shared)
    assert torch.equal(read["transposed"], shared.T)
