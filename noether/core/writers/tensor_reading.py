"""From the bytes of a safetensors file, which may come from a stranger, to its tensors."""

from __future__ import annotations

from collections.abc import Mapping

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from noether.core.utils.tensor_header import LENGTH, header_length, require_plausible


def decode_tensors(data: bytes, aliases: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the tensors of a file by name, tied ones as the same object.

    Raises:
        ValueError: The bytes are no such file, or an alias stands for nothing or for a tensor that is there itself.
    """
    length = header_length(data, len(data))
    require_plausible(data[LENGTH : LENGTH + length])
    try:
        tensors = load(data)
    except (SafetensorError, KeyError, RuntimeError, OverflowError, TypeError, AssertionError) as error:
        raise ValueError(f"no sound safetensors file: {error}") from error
    for alias, name in aliases.items():
        if alias in tensors or name not in tensors:
            raise ValueError(f"the alias {alias!r} of {name!r} fits no tensor of the file")
    return {**tensors, **{alias: tensors[name] for alias, name in aliases.items()}}
