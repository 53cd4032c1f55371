"""Tensors as safetensors bytes that hold nothing but names, shapes and values: equal states are equal bytes."""

from __future__ import annotations

from collections.abc import Mapping

from safetensors.torch import load, save
from torch import Tensor


def encode_tensors(tensors: Mapping[str, Tensor]) -> tuple[bytes, dict[str, str]]:
    """Return the file's bytes, and which names are the same tensor as another name (tied weights).

    The format refuses tensors that share memory, so a tied weight is written once and its other names are aliases.
    """
    first_names: dict[tuple[int, tuple[int, ...], tuple[int, ...], str], str] = {}
    distinct: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        place = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), str(tensor.dtype))
        if tensor.numel() and place in first_names:
            aliases[name] = first_names[place]
            continue
        first_names[place] = name
        distinct[name] = tensor.cpu().contiguous().clone()
    return save(distinct), aliases


def decode_tensors(data: bytes, aliases: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the tensors of a file by name, tied ones as the same object."""
    tensors = load(data)
    return {**tensors, **{alias: tensors[name] for alias, name in aliases.items()}}
