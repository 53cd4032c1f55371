"""The header of a safetensors file that may come from a stranger, looked at before the library reads the file.

The library itself checks that offsets neither overlap nor leave gaps and that they fit the shapes; what it takes on
trust, or spends seconds on, is checked here.
"""

from __future__ import annotations

import math
from typing import Any

from noether.core.utils.json_limits import parse_json

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
