"""Members of shards as tensors, without running code that they hold."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable, Collection
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor

from noether.data.sources.columns import from_numpy
from noether.errors import DataError

_PICKLES = ("pyd", "pickle", "pkl", "pth", "pt", "ten", "mp", "msg")
"""Formats of webdataset that run code when they are read, or that hold no plain arrays."""
_MOST_BYTES = 4 << 30
"""Bytes that the arrays of one member may unpack to."""
_MOST_HEADER = 16 << 20
"""Bytes of the header of safetensors; enough for about 100,000 arrays."""


def format_of(suffix: str) -> str:
    """Return the format of a member: the last part of its suffix."""
    return suffix.rpartition(".")[2]


def has_names(suffix: str) -> bool:
    """Return True if a member of this suffix may hold several arrays, whose names only its content tells."""
    return format_of(suffix) in _SEVERAL


def column_name(suffix: str, name: str = "") -> str:
    """Return the name of an array: `p` of `p.npy` and of `npz`, `cls` of `cls`, `flow.p` of `flow.npz`."""
    stem = suffix.rpartition(".")[0]
    return ".".join(part for part in (stem, name) if part) or suffix


def require_known(member: Path, suffix: str) -> None:
    """Check that a member can be decoded.

    Raises:
        DataError: if its format is unknown, or may run code.
    """
    kind = format_of(suffix)
    if kind in _SINGLE or kind in _SEVERAL:
        return
    known = ", ".join(f".{one}" for one in (*_SINGLE, *_SEVERAL))
    if kind in _PICKLES:
        raise DataError(
            f"{member} is refused: found .{kind}, which may run code when it is read, expected one of {known}",
            hint="write arrays as .npy or .npz; or choose other members with `properties`",
        )
    raise DataError(
        f"{member}: unknown format: found .{kind}, expected one of {known}",
        hint="choose other members with `properties`",
    )


def decoded(member: Path, suffix: str, data: bytes, wanted: Collection[str] | None = None) -> dict[str, Tensor]:
    """Return the arrays of a member by the names of their columns, in the types of the file.

    Args:
        member: Place of the member, for messages.
        suffix: Its suffix, `p.npy`.
        data: Its content.
        wanted: Columns that are needed; None for all.

    Raises:
        DataError: if it is damaged, lacks one of them, or one is not an array of numbers.
    """
    require_known(member, suffix)
    kind = format_of(suffix)
    try:
        if kind in _SINGLE:
            return {column_name(suffix): _SINGLE[kind](member, data)}
        found = _SEVERAL[kind](member, data)
        named = {column_name(suffix, name): values for name, values in found.items()}
        if wanted is not None:
            if missing := [name for name in wanted if name not in named]:
                raise DataError(f"{member} lacks an array: found {', '.join(named) or 'none'}, expected {missing[0]}")
            named = {name: named[name] for name in wanted}
        return {name: values() for name, values in named.items()}
    except DataError:
        raise
    except Exception as error:  # each format has errors of its own
        raise _unreadable(member, error) from error


def names_in(member: Path, suffix: str, data: bytes) -> list[str]:
    """Return the columns of a member of several arrays, of numbers or not.

    Raises:
        DataError: if it is damaged.
    """
    try:
        return [column_name(suffix, name) for name in _SEVERAL[format_of(suffix)](member, data)]
    except DataError:
        raise
    except Exception as error:  # as above
        raise _unreadable(member, error) from error


def _unreadable(member: Path, error: Exception) -> DataError:
    return DataError(f"{member} cannot be read as {member.suffix.lower()}: {error}", hint="write the shard again")


def _not_numbers(member: Path, name: str, found: str) -> DataError:
    return DataError(
        f"{member}: wrong type of {name!r}: found {found}, expected numbers or booleans",
        hint="choose other arrays with `properties`, or write this one as an array of numbers",
    )


def _npy(member: Path, data: bytes) -> Tensor:
    lengths = 2 if data[6:7] == b"\x01" else 4  # bytes of the length, by the version of the format
    start = 8 + lengths + int.from_bytes(data[8 : 8 + lengths], "little")
    shape, is_fortran, dtype = _npy_header(data[:start])
    if dtype.kind not in "biuf":
        raise _not_numbers(member, member.name, str(dtype))
    flat = np.frombuffer(data, dtype, offset=start)
    return from_numpy(member, member.name, flat.reshape(shape, order="F" if is_fortran else "C"))


@lru_cache(256)
def _npy_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, order and type; most samples have equal headers, and numpy parses them as Python's literals."""
    stream = io.BytesIO(header)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    layout: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(stream)
    return layout


def _cls(member: Path, data: bytes) -> Tensor:
    text = data[:64].decode("ascii").strip()
    if not text.removeprefix("-").isdigit() or len(data) > 64:
        raise ValueError(f"found {text!r}, expected an integer")
    return _numbers(member, member.name, int(text))


def _image(member: Path, data: bytes) -> Tensor:
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(
            f"{member}: reading images needs pillow", hint="pip install 'noether-plugin-webdataset[images]'"
        ) from error
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as opened:
        most = Image.MAX_IMAGE_PIXELS or math.inf
        if opened.width * opened.height > most:
            raise ValueError(f"found {opened.width} x {opened.height} pixels, expected at most {most}")
        plain = {"P": "RGB", "1": "L"}.get(opened.mode)  # a palette has no numbers
        image = opened.convert(plain) if plain else opened
        if image.mode not in ("L", "LA", "RGB", "RGBA"):
            raise ValueError(f"found an image of mode {image.mode}, expected L, LA, RGB or RGBA of 8 bits")
        pixels = np.asarray(image, np.float32) / np.float32(255)
    planes = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(np.ascontiguousarray(planes.transpose(2, 0, 1)))


def _npz(member: Path, data: bytes) -> dict[str, Callable[[], Tensor]]:
    archive = zipfile.ZipFile(io.BytesIO(data))
    unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > _MOST_BYTES:
        raise ValueError(f"it unpacks to {unpacked} bytes, expected at most {_MOST_BYTES}")
    names = archive.namelist()
    return {name.removesuffix(".npy"): partial(_entry, member / name, archive, name) for name in names}


def _entry(place: Path, archive: zipfile.ZipFile, name: str) -> Tensor:
    return _npy(place, archive.read(name))


def _safetensors(member: Path, data: bytes) -> dict[str, Callable[[], Tensor]]:
    if (length := int.from_bytes(data[:8], "little")) > min(_MOST_HEADER, len(data)):
        raise ValueError(f"its header has {length} bytes, the member {len(data)}, expected at most {_MOST_HEADER}")
    return {name: partial(_tensor, member, name, values) for name, values in sorted(load(data).items())}


def _tensor(member: Path, name: str, values: Tensor) -> Tensor:
    """Return a tensor of floats as it is, of which numpy lacks some types."""
    return values if values.is_floating_point() else from_numpy(member, name, values.numpy())


def _json(member: Path, data: bytes) -> dict[str, Callable[[], Tensor]]:
    tree = json.loads(data.decode(), parse_constant=_refuse_constant, object_pairs_hook=_distinct)
    entries = tree if isinstance(tree, dict) else {"": tree}
    return {name: partial(_numbers, member, name or member.name, value) for name, value in entries.items()}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("an object has the same key twice")
    return table


def _numbers(member: Path, name: str, value: Any) -> Tensor:
    """Return a number, or lists of numbers, as a tensor."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise _not_numbers(member, name, "lists of different lengths") from error
    if array.dtype.kind in "OU":
        raise _not_numbers(member, name, "text" if isinstance(value, str) else f"{str(value)[:40]!r}")
    return from_numpy(member, name, array)


_SINGLE: dict[str, Callable[[Path, bytes], Tensor]] = {
    "npy": _npy,
    "cls": _cls,
    "png": _image,
    "jpg": _image,
    "jpeg": _image,
}
_SEVERAL: dict[str, Callable[[Path, bytes], dict[str, Callable[[], Tensor]]]] = {
    "npz": _npz,
    "safetensors": _safetensors,
    "json": _json,
}
