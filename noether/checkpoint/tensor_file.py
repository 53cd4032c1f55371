"""Tensor files: deterministic safetensors, written in pieces and read with limits."""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from noether.checkpoint.durable import Chunk
from noether.checkpoint.untrusted import json_excess, parse_json
from noether.errors import TrainingError

MAX_HEADER = 16 << 20
"""Some 100,000 tensors."""
MAX_DIMENSIONS = 64
LENGTH = 8
"""Bytes in front of the header that hold its length."""

_PLAIN = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL", "C64")
_EIGHT_BITS = ("F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ")
_TYPES = frozenset((*_PLAIN, *_EIGHT_BITS))
_MOST = 1 << 63
_SHOWN = 200  # characters of a name in a message


def header_length(start: bytes, size: int) -> int:
    """Return the length of the header of a file of `size` bytes from its first ones.

    Raises:
        ValueError: The file cannot have such a header, or it is too long to be read.
    """
    length = int.from_bytes(start[:LENGTH], "little")
    if size < LENGTH or length > size - LENGTH:
        raise ValueError(f"no sound safetensors file: its header would have {length} bytes, it has {size} in all")
    if length > MAX_HEADER:
        raise ValueError(f"its header has {length} bytes, at most {MAX_HEADER} are read")
    return length


def require_plausible(header: bytes) -> None:
    """Check the names, types and shapes in a header.

    Raises:
        ValueError: It is none, or describes what no tensor can be.
    """
    table = parse_json(header)
    if not isinstance(table, dict):
        raise ValueError("no sound safetensors file: its header is no object")
    for name, described in table.items():
        if name != "__metadata__" and not _is_plausible(described):
            raise ValueError(f"no sound safetensors file: {name[:_SHOWN]!r} has a type or shape that no tensor has")


def _is_plausible(described: Any) -> bool:
    if not isinstance(described, dict):
        return False
    shape, dtype = described.get("shape"), described.get("dtype")
    return (
        isinstance(dtype, str)
        and dtype in _TYPES
        and isinstance(shape, list)
        and len(shape) <= MAX_DIMENSIONS
        and all(type(size) is int and 0 <= size < _MOST for size in shape)
        and math.prod(max(size, 1) for size in shape) < _MOST
    )


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


@torch.no_grad()
def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every value of every tensor is finite; waits for a device once, whatever the number of tensors."""
    extremes: dict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        plain = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
        if plain.numel() and plain.is_floating_point():
            extremes[plain.device, plain.dtype].extend(_extremes(plain))
    return all(bool(torch.stack(found).isfinite().all()) for found in extremes.values())


def _extremes(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return the smallest and the largest value: both are NaN where any value is."""
    return torch.aminmax(tensor.float() if tensor.dtype.itemsize == 1 else tensor)  # torch orders no floats of 8 bits


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
