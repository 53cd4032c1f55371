"""Arrays that stay on disk: .npy, .npz and .safetensors mapped into memory, HDF5 and zarr read chunk by chunk."""

from __future__ import annotations

import io
import math
import mmap
import os
import struct
import weakref
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from noether.checkpoint.tensor_file import DTYPES, LENGTH, header_length, require_plausible
from noether.checkpoint.untrusted import parse_json
from noether.data.sources.columns import checked_names, from_numpy, from_torch, no_file, unreadable, wrong_type
from noether.errors import DataError

Indices = np.ndarray[Any, np.dtype[np.int64]]

_DROPPED = 128 << 20
"""Bytes; mapped pages are given back after this many, so that they do not count as memory of the process."""
_PAGE = 64 << 10
"""Bytes that the kernel maps around an address that is read."""
_CACHED = 128 << 20
"""Bytes of decoded chunks that an array keeps."""


class StoredArray(Protocol):
    """An array on disk whose first dimension counts samples."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def take(self, indices: Indices) -> Tensor:
        """Return the rows at `indices`, in this order, as a new tensor."""
        ...


@dataclass(frozen=True, slots=True)
class _Layout:
    """Place of an array in a file: rows one after the other from byte `offset` on."""

    dtype: np.dtype[Any] | torch.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


class _OpenFile:
    """A file as it was when it was opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        self._status = self._now()

    def _now(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns

    def require_unchanged(self) -> None:
        """Refuse a file that has changed: what is read would be half old and half new, and beyond its end it kills.

        Raises:
            DataError: if the file has changed since it was opened.
        """
        if self._now() != self._status:
            raise DataError(
                f"{self.path} has changed while it was read: found {self._now()[0]} bytes, expected those of the "
                f"{self._status[0]} that it had",
                hint="write new data to a new file, and rename that",
            )


class _MappedFile(_OpenFile):
    """A file mapped for reading only; every process maps it for itself."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if not self._status[0]:
            raise DataError(f"{path} is empty: found 0 bytes, expected arrays", hint="check that the file is complete")
        self.bytes = mmap.mmap(self._descriptor, 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
        self._touched = 0

    def about_to_read(self, rows: int, row_bytes: int) -> None:
        """Give pages back once many were read, and refuse a file that has changed."""
        self.require_unchanged()
        self._touched += rows * max(row_bytes, _PAGE)
        if self._touched > _DROPPED and hasattr(mmap, "MADV_DONTNEED"):
            self._touched = 0
            self.bytes.madvise(mmap.MADV_DONTNEED)


class MappedArray:
    """Rows of a mapped file; a batch is one gather.

    Raises:
        DataError: if the file ends before the array does, or it holds other values than numbers.
    """

    def __init__(self, file: _MappedFile, name: str, layout: _Layout) -> None:
        self._file, self._name, self._type = file, name, layout.dtype
        self.shape, self._row_bytes = layout.shape, layout.row_bytes
        end = layout.offset + self._row_bytes * (self.shape[0] if self.shape else 1)
        if end > len(file.bytes):
            raise DataError(
                f"{file.path} is truncated: found {len(file.bytes)} bytes, expected {end} for the array {name!r}",
                hint="copy or write the file again",
            )
        self.dtype = self._typed(np.empty(self._row_bytes * 0, dtype=np.uint8)).dtype
        rows = np.frombuffer(file.bytes, np.uint8, end - layout.offset, layout.offset)
        self._rows = rows.reshape(self.shape[0], self._row_bytes) if self.shape else rows

    def take(self, indices: Indices) -> Tensor:
        """Return the rows at `indices`, in this order, as a new tensor.

        Raises:
            DataError: if the file has changed.
        """
        self._file.about_to_read(len(indices), self._row_bytes)
        return self._typed(self._rows.take(indices, axis=0)).reshape(len(indices), *self.shape[1:])

    def _typed(self, values: np.ndarray[Any, Any]) -> Tensor:
        """Return bytes as numbers."""
        flat = values.reshape(-1)
        if isinstance(self._type, torch.dtype):
            return from_torch(self._file.path, self._name, torch.from_numpy(flat).view(self._type))
        return from_numpy(self._file.path, self._name, flat.view(self._type))


class ChunkedArray:
    """An array of HDF5 or zarr, read a chunk at a time; the chunks that were read last are kept.

    Args:
        path: The file.
        name: Name of the array.
        array: The array: has `shape`, `dtype` and `chunks`, and is sliced by rows.
        file: The file that holds all of it; None for a folder.
    """

    def __init__(self, path: Path, name: str, array: Any, file: _OpenFile | None = None) -> None:
        self._path, self._name, self._array, self._file = path, name, array, file
        self.shape = tuple(array.shape)
        self.dtype = from_numpy(path, name, np.empty(0, dtype=array.dtype)).dtype
        row_bytes = max(1, math.prod(self.shape[1:]) * array.dtype.itemsize)
        self._rows = array.chunks[0] if array.chunks else max(1, (1 << 20) // row_bytes)
        self._most = max(1, _CACHED // (self._rows * row_bytes))
        self._kept: OrderedDict[int, np.ndarray[Any, Any]] = OrderedDict()

    def take(self, indices: Indices) -> Tensor:
        """Return the rows at `indices`, in this order, as a new tensor; each chunk is read once.

        Raises:
            DataError: if a chunk is damaged, or the file has changed.
        """
        if self._file is not None:
            self._file.require_unchanged()
        result = np.empty((len(indices), *self.shape[1:]), dtype=self._array.dtype)
        chunks, within = np.divmod(indices, self._rows)
        order = np.argsort(chunks, kind="stable")
        numbers, starts = np.unique(chunks[order], return_index=True)
        for number, places in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
            result[places] = self._chunk(number)[within[places]]
        return from_numpy(self._path, self._name, result)

    def _chunk(self, number: int) -> np.ndarray[Any, Any]:
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        try:
            chunk = np.asarray(self._array[number * self._rows : (number + 1) * self._rows])
        except Exception as error:  # each codec has errors of its own
            raise unreadable(self._path, error) from error
        self._kept[number] = chunk
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return chunk


def open_arrays(path: Path, names: Collection[str] | None) -> dict[str, StoredArray]:
    """Return the arrays `names` of a file, or all of them, without reading their values.

    Raises:
        DataError: if the file is missing, of an unknown format, damaged or truncated, lacks one of `names`, or its
            format needs a package that is not installed.
    """
    is_folder = path.suffix.lower() != ".zarr" and path.is_dir() and any(path.glob("*.npy"))
    opener = _open_folder if is_folder else _OPENERS.get(path.suffix.lower())
    if opener is None:
        raise DataError(
            f"{path}: unknown format: found {path.suffix or 'no suffix'!r}, expected one of {', '.join(_OPENERS)}, or "
            "a folder of .npy files",
            hint='kind = "file" reads .csv and .parquet into memory',
        )
    if not (path.is_file() or (opener in (_open_folder, _open_zarr) and path.is_dir())):
        raise no_file(path)
    try:
        present = opener(path)
        return {name: present[name]() for name in checked_names(path, names, list(present))}
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError, struct.error, zipfile.BadZipFile) as error:
        raise unreadable(path, error) from error


Openers = dict[str, Callable[[], StoredArray]]


def _open_npy(path: Path) -> Openers:
    return {path.stem: lambda: _npy_array(_MappedFile(path), path.stem, 0)}


def _open_folder(path: Path) -> Openers:
    files = sorted(path.glob("*.npy"))
    if wrong := [file for file in files if not file.is_file()]:  # reading a pipe would wait for ever
        raise no_file(wrong[0])
    return {name: opener for file in files for name, opener in _open_npy(file).items()}


def _npy_array(file: _MappedFile, name: str, start: int) -> StoredArray:
    """Return the array of an .npy file that begins at a byte of another file, or at its start."""
    stream = io.BytesIO(file.bytes[start : start + (1 << 16)])
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(stream)
    except Exception as error:  # numpy reads a header as Python's tokens, which have errors of their own
        raise unreadable(file.path, error) from error
    if is_fortran and len(shape) > 1:
        raise DataError(
            f"{file.path}: wrong order of {name!r}: found column after column, expected sample after sample",
            hint="save numpy.ascontiguousarray(array)",
        )
    if dtype.hasobject or dtype.kind not in "biuf":
        raise wrong_type(file.path, name, str(dtype))
    return MappedArray(file, name, _Layout(dtype, tuple(shape), start + stream.tell()))


def _open_npz(path: Path) -> Openers:
    file = _MappedFile(path)
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".npy")]

    def opener(member: zipfile.ZipInfo) -> StoredArray:
        name = member.filename.removesuffix(".npy")
        if member.compress_type != zipfile.ZIP_STORED:
            raise DataError(
                f"{path}: the array {name!r} is compressed, expected one that can be mapped",
                hint='save it with numpy.savez, not savez_compressed; or read it into memory with kind = "file"',
            )
        lengths = struct.unpack("<HH", file.bytes[member.header_offset + 26 : member.header_offset + 30])
        return _npy_array(file, name, member.header_offset + 30 + sum(lengths))

    return {member.filename.removesuffix(".npy"): lambda member=member: opener(member) for member in members}  # type: ignore[misc]


def _open_safetensors(path: Path) -> Openers:
    file = _MappedFile(path)
    length = header_length(file.bytes[:LENGTH], len(file.bytes))
    header = file.bytes[LENGTH : LENGTH + length]
    require_plausible(header)
    table = {name: entry for name, entry in parse_json(header).items() if name != "__metadata__"}

    def opener(name: str) -> StoredArray:
        entry = table[name]
        dtype = DTYPES.get(entry["dtype"])
        if dtype is None or dtype.is_complex:
            raise wrong_type(path, name, entry["dtype"])
        first, last = entry["data_offsets"]
        layout = _Layout(dtype, tuple(entry["shape"]), LENGTH + length + first)
        if first < 0 or last - first != math.prod(layout.shape) * dtype.itemsize:
            raise ValueError(f"the bytes of {name!r} do not fit its shape")
        return MappedArray(file, name, layout)

    return {name: lambda name=name: opener(name) for name in table}  # type: ignore[misc]


def _open_hdf5(path: Path) -> Openers:
    try:
        import h5py
    except ImportError as error:
        raise _no_package(path, "h5py", "hdf5") from error
    opened, file = _OpenFile(path), h5py.File(path, "r")
    found: dict[str, Any] = {}
    file.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)

    def opener(name: str) -> StoredArray:
        array = found[name]
        if array.shape is None:
            raise wrong_type(path, name, "no values")
        offset = array.id.get_offset() if array.chunks is None and not array.external else None
        if offset is None or array.dtype.kind not in "biuf":
            return ChunkedArray(path, name, array, opened)
        return MappedArray(_MappedFile(path), name, _Layout(array.dtype, array.shape, offset))

    return {name: lambda name=name: opener(name) for name in found}  # type: ignore[misc]


def _open_zarr(path: Path) -> Openers:
    try:
        import zarr
    except ImportError as error:
        raise _no_package(path, "zarr", "zarr") from error
    try:
        store = zarr.open(str(path), mode="r")
        found = dict(_zarr_arrays(path, store, zarr.Array))
    except Exception as error:  # each version of the format has errors of its own
        raise unreadable(path, error) from error
    return {name: lambda name=name: ChunkedArray(path, name, found[name]) for name in found}  # type: ignore[misc]


def _zarr_arrays(path: Path, store: Any, kind: type) -> Iterator[tuple[str, Any]]:
    if isinstance(store, kind):
        yield path.stem, store
        return
    for name, member in sorted(store.members(max_depth=None), key=lambda pair: pair[0]):
        if isinstance(member, kind):
            yield name, member


def _no_package(path: Path, package: str, extra: str) -> DataError:
    return DataError(
        f"{path}: reading {path.suffix} needs {package}, which is not installed",
        hint=f"pip install 'noether-train[{extra}]'",
    )


_OPENERS: dict[str, Callable[[Path], Openers]] = {
    ".npy": _open_npy,
    ".npz": _open_npz,
    ".safetensors": _open_safetensors,
    ".h5": _open_hdf5,
    ".hdf5": _open_hdf5,
    ".zarr": _open_zarr,
}
