"""Tensors as safetensors bytes that hold nothing but names, shapes and values: equal states are equal bytes.

The bytes are those that the safetensors library makes. It builds a whole file in memory; here a header comes first and
each tensor is handed on as it lies there, so that a save needs no second copy of a model.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from noether.core.utils.json_limits import json_excess
from noether.core.utils.tensor_header import MAX_HEADER
from noether.core.writers.content import Chunk
from noether.core.writers.tensor_reading import decode_tensors as decode_tensors
from noether.errors import TrainingError

_GATHERED = 1 << 18
"""Tensors below this many bytes are joined up to it, so that many small ones are not as many writes."""
_PIECE = 1 << 20
"""Larger ones are cut: what was just hashed is still in the processor's cache when it is written."""

# In the order in which the format lays them out, widest first.
_KINDS: dict[torch.dtype, str] = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_PLACES = {dtype: place for place, dtype in enumerate(_KINDS)}


@dataclass(frozen=True, slots=True)
class TensorFile:
    """One safetensors file that is made while it is written. It holds the tensors themselves and no copies.

    Attributes:
        tensors: What it holds, by name, in the order of the file; the values are read by `chunks`.
        header: Its first bytes.
    """

    tensors: Mapping[str, Tensor]
    header: bytes = field(repr=False)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> TensorFile:
        """Lay a file out for tensors, none of which is another one's alias.

        Raises:
            TrainingError: A tensor is of a kind that the format has no name for.
        """
        assert sys.byteorder == "little", "the format is little-endian, and values are written as they lie in memory"
        for name, tensor in tensors.items():
            if tensor.dtype not in _PLACES or tensor.layout is not torch.strided or tensor.is_meta:
                raise TrainingError(
                    f"a checkpoint cannot keep the tensor {name!r}: {tensor.dtype}, {tensor.layout}, {tensor.device}",
                    hint=f"save it as a dense tensor of {', '.join(str(dtype) for dtype in _KINDS)}",
                )
        ordered = {name: tensors[name] for name in sorted(tensors, key=lambda name: (_place(tensors[name]), name))}
        return cls(ordered, _header(ordered))

    def __len__(self) -> int:
        """Return the size of the file in bytes."""
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors.values())

    def chunks(self) -> Iterator[Chunk]:
        """Yield the bytes of the file."""
        gathered = bytearray(self.header)
        for tensor in self.tensors.values():
            values = _bytes_of(tensor)
            if len(values) < _GATHERED:
                gathered += values
                if len(gathered) < _GATHERED:
                    continue
                values = memoryview(b"")
            if gathered:
                yield bytes(gathered)
                gathered.clear()
            for start in range(0, len(values), _PIECE):
                yield values[start : start + _PIECE]
        if gathered:
            yield bytes(gathered)


def lay_out_tensors(tensors: Mapping[str, Tensor]) -> tuple[TensorFile, dict[str, str]]:
    """Return the file, and which names are the same tensor as another name (tied weights).

    The format refuses tensors that share memory, so a tied weight is written once and its other names are aliases.

    Raises:
        TrainingError: A tensor is of a kind that the format has no name for.
    """
    first_names: dict[tuple[int, tuple[int, ...], tuple[int, ...], torch.dtype, torch.device], str] = {}
    distinct: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        if tensor.layout is torch.strided and tensor.numel() and not tensor.is_meta:
            place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)
            if place in first_names:
                aliases[name] = first_names[place]
                continue
            first_names[place] = name
        distinct[name] = tensor
    return TensorFile.of(distinct), aliases


def encode_tensors(tensors: Mapping[str, Tensor]) -> tuple[bytes, dict[str, str]]:
    """Return what `lay_out_tensors` does, with the file as bytes."""
    file, aliases = lay_out_tensors(tensors)
    return b"".join(file.chunks()), aliases


def _place(tensor: Tensor) -> int:
    return _PLACES[tensor.dtype]


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the length of the table of contents and the table, filled up so that the values begin aligned."""
    table, start = {}, 0
    for name, tensor in tensors.items():
        end = start + tensor.nbytes
        table[name] = {"dtype": _KINDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    if len(text) > MAX_HEADER or json_excess(text) is not None:
        raise TrainingError(
            f"a checkpoint cannot keep {len(tensors)} tensors in one file: their names and shapes take "
            f"{len(text)} bytes, at most {MAX_HEADER} can be read",
            hint="join small tensors to larger ones",
        )
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes_of(tensor: Tensor) -> memoryview:
    """Return the values row by row, as they lie in memory where they lie there so."""
    if not tensor.numel():
        return memoryview(b"")
    plain = tensor.cpu().resolve_conj().resolve_neg().contiguous()
    in_a_row = plain.as_strided((plain.numel(),), (1,))  # one value alone counts as contiguous with any stride
    return in_a_row.view(torch.uint8).numpy().data
