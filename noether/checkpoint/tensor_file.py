"""Tensor files: deterministic safetensors, written in pieces and read with limits."""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from json.encoder import encode_basestring
from operator import attrgetter
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from noether.checkpoint.durable import Chunk
from noether.checkpoint.untrusted import json_excess, parse_json
from noether.errors import TrainingError

MAX_HEADER = 16 << 20
"""Bytes; enough for about 100,000 tensors."""
MAX_DIMENSIONS = 64
LENGTH = 8
"""Bytes before the header that hold its length."""
_PLAIN = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL", "C64")
_EIGHT_BITS = ("F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ")
_TYPES = frozenset((*_PLAIN, *_EIGHT_BITS))
_MOST = 1 << 63
_SHOWN = 200  # characters of a name in a message

_GATHERED = 1 << 18
"""Bytes; smaller tensors are joined up to this size, to save writes."""
_PIECE = 1 << 20
"""Bytes; larger tensors are cut, so that a piece is still in the processor's cache between hashing and writing."""
_BLOCK = 1 << 22
"""Values; more of them are cut, because some types are converted to be looked at."""
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
DTYPES = {kind: dtype for dtype, kind in _KINDS.items()}
"""Types of torch by their names in a header."""
_PLACES = {dtype: place for place, dtype in enumerate(_KINDS)}
_COMMON = (
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)
"""Types of which small tensors are joined."""
IN_PAIRS = (torch.complex128, torch.complex32)
"""Types that the format lacks; they are written as pairs of real numbers."""
_METADATA, _OURS = "__metadata__", "noether"  # the format's key for texts, and the key of our text in it


@dataclass(frozen=True, slots=True)
class TensorFile:
    """One safetensors file that is made while it is written, from the tensors themselves and not from copies.

    Attributes:
        tensors: The tensors by name, in the order of the file; `chunks` reads their values.
        header: The first bytes of the file.
        size: Bytes of the tensors together.
        memory: Bytes of all tensors one after the other, if they lie in memory like that.
        blocks: All values in that memory, as few large tensors.
    """

    tensors: Mapping[str, Tensor]
    header: bytes = field(repr=False)
    size: int
    memory: Tensor | None = field(default=None, repr=False)
    blocks: Sequence[Tensor] = field(default=(), repr=False)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], values: Any = None) -> TensorFile:
        """Lay out a file for tensors that share no memory, and a tree of JSON beside them.

        Raises:
            TrainingError: if the format does not support the type or the name of a tensor.
        """
        assert sys.byteorder == "little", "the format is little-endian, and values are written as they lie in memory"
        pairs = [name for name in sorted(tensors) if tensors[name].dtype in IN_PAIRS]
        tensors = {**tensors, **{name: torch.view_as_real(_plain(tensors[name])) for name in pairs}}
        by_type: dict[torch.dtype, list[str]] = defaultdict(list)
        for name in sorted(tensors):
            _require_storable(name, tensors[name])
            by_type[tensors[name].dtype].append(name)
        ordered = {name: tensors[name] for dtype in sorted(by_type, key=_PLACES.__getitem__) for name in by_type[dtype]}
        own = {"complex": pairs, "values": values}
        return cls(ordered, *_header(ordered, {key: value for key, value in own.items() if value}))

    def __len__(self) -> int:
        """Return the size of the file in bytes."""
        return len(self.header) + self.size

    def chunks(self) -> Iterator[Chunk]:
        """Yield the bytes of the file."""
        yield self.header
        parts = _joined(self.tensors.values()) if self.memory is None else iter([self.memory])
        for values in map(_bytes_of, parts):
            for start in range(0, len(values), _PIECE):
                yield values[start : start + _PIECE]

    def like(self) -> TensorFile:
        """Return a file of the same layout in one piece of main memory, whose values are still to be copied into it."""
        on_gpu = any(tensor.is_cuda for tensor in self.tensors.values())
        memory = torch.empty(self.size, dtype=torch.uint8, pin_memory=on_gpu)
        parts = torch.split(memory, [tensor.nbytes for tensor in self.tensors.values()])
        named = zip(self.tensors.items(), parts, strict=True)
        tensors = {name: part.view(tensor.dtype).view(tensor.shape) for (name, tensor), part in named}
        return TensorFile(tensors, self.header, self.size, memory, _blocks(tensors, memory))


def _blocks(tensors: Mapping[str, Tensor], memory: Tensor) -> list[Tensor]:
    """Return the memory of a file's tensors as few large ones."""
    found: list[Tensor] = []
    start = 0
    for dtype, alike in groupby(tensors.values(), key=attrgetter("dtype")):
        end = start + sum(tensor.nbytes for tensor in alike)
        found += torch.split(memory[start:end].view(dtype), _BLOCK)
        start = end
    return found


def _joined(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the values of tensors in order; small ones of one type are joined, in one call for all of them."""
    waiting: list[Tensor] = []
    size, kind = 0, None
    for tensor in tensors:
        if (tensor.dtype, tensor.device) != kind or size >= _GATHERED:
            yield from _flat(waiting)
            waiting, size, kind = [], 0, (tensor.dtype, tensor.device)
        waiting.append(tensor)
        size += tensor.nbytes
    yield from _flat(waiting)


def _flat(tensors: list[Tensor]) -> list[Tensor]:
    """Return tensors of one type as few ones of one dimension."""
    if len(tensors) < 2 or tensors[0].dtype not in _COMMON:
        return tensors
    *small, last = tensors
    if last.nbytes < _GATHERED:
        return [torch._C._nn.flatten_dense_tensors(tensors)]
    return [torch._C._nn.flatten_dense_tensors(small), last]


def is_joinable(tensor: Tensor) -> bool:
    """Return True if the values lie in main memory one after the other, in a common type."""
    return tensor.dtype in _COMMON and tensor.is_cpu and tensor.is_contiguous() and not tensor.is_neg()


def _require_storable(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in _PLACES or tensor.layout is not torch.strided or tensor.is_meta:
        raise TrainingError(
            f"a checkpoint cannot hold the tensor {name!r}: found {tensor.dtype}, {tensor.layout}, "
            f"{tensor.device}, expected a dense tensor of a supported type",
            hint=f"convert it to one of {', '.join(str(dtype) for dtype in (*_KINDS, *IN_PAIRS))}; or keep it out of "
            "the state, for example with register_buffer(…, persistent=False)",
        )
    is_text = name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)
    if name == _METADATA or not is_text:
        raise TrainingError(
            f"a checkpoint cannot hold a tensor of the name {name!r}: found a reserved name or half a character, "
            "expected other text",
            hint="rename the parameter, the buffer or the module",
        )


def _plain(tensor: Tensor) -> Tensor:
    """Return a tensor whose memory holds its values: conjugation and negation may be flags only."""
    return tensor.resolve_conj().resolve_neg()


def _header(tensors: Mapping[str, Tensor], own: Mapping[str, Any]) -> tuple[bytes, int]:
    """Return the length of a table of contents and the table, and the bytes of the tensors.

    The table is padded so that the values begin aligned.
    """
    table: list[str] = []  # of text: a dict for each of thousands of tensors would make the garbage collector run
    if own:
        values = json.dumps(own, sort_keys=True, separators=(",", ":"), allow_nan=False)
        table.append(f'"{_METADATA}":{{"{_OURS}":{encode_basestring(values)}}}')
    start = 0
    for name, tensor in tensors.items():
        end = start + tensor.nbytes
        kind, shape = _KINDS[tensor.dtype], ",".join(map(str, tensor.shape))
        table.append(f'{encode_basestring(name)}:{{"dtype":"{kind}","shape":[{shape}],"data_offsets":[{start},{end}]}}')
        start = end
    text = f"{{{','.join(table)}}}".encode()
    if len(text) > MAX_HEADER or json_excess(text) is not None:
        raise TrainingError(
            f"a checkpoint cannot hold {len(tensors)} tensors in one file: found {len(text)} bytes of names and "
            f"shapes, expected at most {MAX_HEADER}",
            hint="join small tensors to larger ones",
        )
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, start


def _bytes_of(tensor: Tensor) -> memoryview:
    """Return the values row by row, without a copy if they lie in memory that way."""
    if not tensor.numel():
        return memoryview(b"")
    plain = _plain(tensor.cpu()).contiguous()
    in_a_row = plain.as_strided((plain.numel(),), (1,))  # one value alone counts as contiguous with any stride
    return in_a_row.view(torch.uint8).numpy().data


def lay_out_tensors(tensors: Mapping[str, Tensor], values: Any = None) -> tuple[TensorFile, dict[str, str]]:
    """Return the file of tensors, and aliases: the names of tied weights, which are written once.

    Args:
        tensors: The tensors by name.
        values: A tree of JSON to keep in the file; `values_in` returns it.

    Raises:
        TrainingError: if the format does not support the type of a tensor.
    """
    at: dict[int, tuple[str, ...]] = {}
    distinct: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for name in sorted(tensors):
        tensor = tensors[name]
        if tensor.requires_grad:
            tensor = tensor.detach()
        if tensor.layout is torch.strided and not tensor.is_meta and (pointer := tensor.data_ptr()):
            others = at.get(pointer, ())
            first = next((other for other in others if identity_of(distinct[other]) == identity_of(tensor)), None)
            if first is not None:
                aliases[name] = first
                continue
            at[pointer] = (*others, name)
        distinct[name] = tensor
    return TensorFile.of(distinct, values), aliases


def identity_of(tensor: Tensor) -> tuple[object, ...]:
    """Return the facts that the values of a tensor depend on beside the place of its memory."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.is_conj(), tensor.is_neg()


def encode_tensors(tensors: Mapping[str, Tensor]) -> tuple[bytes, dict[str, str]]:
    """Return the file of tensors as bytes, and aliases as from `lay_out_tensors`."""
    file, aliases = lay_out_tensors(tensors)
    return b"".join(file.chunks()), aliases


def decode_tensors(data: bytes, aliases: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the tensors of a file by name, tied ones as the same object.

    Raises:
        ValueError: if the bytes are not a tensor file, or an alias has no target or the name of a tensor.
    """
    length = header_length(data, len(data))
    header = data[LENGTH : LENGTH + length]
    require_plausible(header)
    try:
        tensors = load(data)
        for name in _own_text(header).get("complex", ()):
            tensors[name] = torch.view_as_complex(tensors[name])
    except (SafetensorError, KeyError, RuntimeError, OverflowError, TypeError, AssertionError) as error:
        raise ValueError(f"not a valid safetensors file: {error}") from error
    for alias, name in aliases.items():
        if alias in tensors or name not in tensors:
            raise ValueError(f"the alias {alias!r} of {name!r} does not fit the tensors of the file")
    return {**tensors, **{alias: tensors[name] for alias, name in aliases.items()}}


def values_in(data: bytes) -> Any:
    """Return the tree of JSON in the bytes of a file that `decode_tensors` accepts; None if it has none."""
    return _own_text(data[LENGTH : LENGTH + header_length(data, len(data))]).get("values")


def _own_text(header: bytes) -> dict[str, Any]:
    """Return the part of a header that Noether wrote beside the table of contents.

    Raises:
        ValueError: if it is malformed.
    """
    if f'"{_OURS}"'.encode() not in header:  # most files: a header may be long
        return {}
    metadata = parse_json(header).get(_METADATA)
    text = metadata.get(_OURS) if isinstance(metadata, dict) else None
    found = parse_json(text.encode()) if isinstance(text, str) else {}
    if not isinstance(found, dict) or not isinstance(found.get("complex", []), list):
        raise ValueError("not a valid tensor file: its own metadata are malformed")
    return found


def header_length(start: bytes, size: int) -> int:
    """Return the length of a header from the first bytes of a file of `size` bytes.

    Raises:
        ValueError: if the file cannot have such a header, or it is too long.
    """
    length = int.from_bytes(start[:LENGTH], "little")
    if size < LENGTH or length > size - LENGTH:
        raise ValueError(f"not a valid safetensors file: the header has {length} bytes, the file {size}")
    if length > MAX_HEADER:
        raise ValueError(f"header too long: found {length} bytes, expected at most {MAX_HEADER}")
    return length


def require_plausible(header: bytes) -> None:
    """Check the names, types and shapes in a header.

    Raises:
        ValueError: if it is not a header, or no tensor can have such a type or shape.
    """
    table = parse_json(header)
    if not isinstance(table, dict):
        raise ValueError("not a valid safetensors file: the header is not an object")
    for name, described in table.items():
        if name != "__metadata__" and not _is_plausible(described):
            raise ValueError(f"not a valid safetensors file: {name[:_SHOWN]!r} has an impossible type or shape")


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


@torch.no_grad()
def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Return True if all values of all tensors are finite; waits once for each device and type."""
    extremes: dict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
    numbers = (tensor for tensor in tensors if tensor.is_floating_point() or tensor.is_complex())
    for tensor in _joined(numbers):
        plain = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
        if plain.numel():
            extremes[plain.device, plain.dtype].extend(_extremes(plain))
    return all(bool(torch.stack(found).isfinite().all()) for found in extremes.values())


def _extremes(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return the smallest and the largest value; both are NaN if any value is."""
    return torch.aminmax(tensor.float() if tensor.dtype.itemsize == 1 else tensor)  # torch orders no floats of 8 bits
