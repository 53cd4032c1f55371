"""Named arrays of a data file, read without running code that it holds."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noether.checkpoint.tensor_file import LENGTH, header_length, require_plausible
from noether.errors import DataError
from noether.kernel.names import did_you_mean
from noether.spec.scaffold import Property

Columns = dict[str, Tensor]
Choose = Callable[[list[str]], list[str]]
"""Function from the names that a file has to those to read."""
Reader = Callable[[Path, Choose], Columns]


def read_columns(path: Path, names: Collection[str] | None) -> Columns:
    """Return the arrays `names` of a file, or all of them.

    Raises:
        DataError: if the file is missing, of an unknown format, or damaged, lacks one of `names`, or holds values
            that are not numbers.
    """
    return _reader(path)(path, lambda present: _checked(path, names, present))


def column_names(path: Path) -> list[str]:
    """Return the names of all arrays of a file, without reading their values.

    Raises:
        DataError: if the file is missing, of an unknown format, or damaged.
    """
    found: list[str] = []

    def none_of(present: list[str]) -> list[str]:
        found.extend(present)
        return []

    _reader(path)(path, none_of)
    return found


def _reader(path: Path) -> Reader:
    """Return the reader of a file that exists."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path}: unknown format: found {path.suffix or 'no suffix'!r}, expected one of {', '.join(_READERS)}"
        )
    if not path.is_file():
        found = "is a folder, expected a file" if path.is_dir() else "does not exist"
        near = sorted(other.name for other in path.parent.glob(f"*{path.suffix}")) if path.parent.is_dir() else []
        beside = f"; its folder has {', '.join(near[:10])}" if near else ""
        raise DataError(f"{path} {found}{beside}", hint="paths in a spec are relative to the spec's own folder")
    return reader


def _read_npz(path: Path, choose: Choose) -> Columns:
    try:
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: wrong content: found a single array without a name, expected an .npz archive")
            return {name: _from_numpy(path, name, archive[name]) for name in choose(archive.files)}
    except (OSError, ValueError, EOFError, MemoryError, RecursionError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error


def _read_safetensors(path: Path, choose: Choose) -> Columns:
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb") as stream:
            length = header_length(stream.read(LENGTH), path.stat().st_size)
            require_plausible(stream.read(length))
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in choose(list(file.keys()))}
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _read_parquet(path: Path, choose: Choose) -> Columns:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"{path}: reading parquet needs pyarrow", hint="pip install pyarrow") from error
    try:
        with parquet.ParquetFile(path) as file:
            table = file.read(columns=choose(file.schema_arrow.names))
    except (OSError, pyarrow.ArrowException) as error:
        raise _unreadable(path, error) from error
    return _of_table(path, table)


def _read_csv(path: Path, choose: Choose) -> Columns:
    try:
        import pyarrow
        from pyarrow import csv
    except ImportError as error:
        raise DataError(f"{path}: reading csv needs pyarrow", hint="pip install pyarrow") from error
    try:
        with csv.open_csv(path) as file:
            present = choose(file.schema.names)
        if not present:
            return {}
        table = csv.read_csv(path, convert_options=csv.ConvertOptions(include_columns=present))
    except (OSError, pyarrow.ArrowException) as error:
        raise _unreadable(path, error) from error
    return _of_table(path, table)


def _of_table(path: Path, table: Any) -> Columns:
    """Return the columns of an Arrow table."""
    for name in table.column_names:
        if table[name].null_count:
            raise DataError(
                f"{path}: missing values in {name!r}: found {table[name].null_count} nulls in {len(table)} rows"
            )
    return {name: _from_numpy(path, name, table[name].to_numpy()) for name in table.column_names}


_READERS: dict[str, Reader] = {
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
}


def _checked(path: Path, names: Collection[str] | None, present: list[str]) -> list[str]:
    """Return the names to read."""
    for name in names or ():
        if name not in present:
            guess = did_you_mean(name, present)
            raise DataError(f"{path}: unknown array: found {name!r}, expected one of {', '.join(present)}.{guess}")
    return list(present if names is None else names)


def _from_numpy(path: Path, name: str, array: np.ndarray[Any, Any] | bytes) -> Tensor:
    if isinstance(array, bytes):
        raise DataError(f"{path}: wrong content of {name!r}: found bytes, expected an array")
    if array.dtype.kind == "u":
        array = array.astype(np.int64)  # torch knows no arithmetic for most unsigned types
    if array.dtype.kind not in "bif" or array.dtype.itemsize > 8:
        raise DataError(f"{path}: wrong type of {name!r}: found {array.dtype}, expected booleans, integers or floats")
    native = np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")
    return torch.from_numpy(native if native.flags.writeable else native.copy())


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read as {path.suffix.lower()}: {error}", hint="check that the file is complete")


def facts_of(path: Path, columns: Columns) -> tuple[int, dict[str, Property]]:
    """Return the number of samples of a file, and the shape and type of each array for one sample.

    Raises:
        DataError: if the arrays differ in length, or hold numbers that are not finite.
    """
    lengths = {name: len(values) if values.ndim else 0 for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        found = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise DataError(f"{path}: wrong lengths of arrays: found {found or 'no array'}, expected one entry a sample")
    for name, values in columns.items():
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            count = int((~torch.isfinite(values)).sum())
            raise DataError(f"{path}: non-finite values in {name!r}: found {count} of {values.numel()}, expected none")
    return next(iter(lengths.values())), {name: _property(values) for name, values in columns.items()}


def _property(values: Tensor) -> Property:
    shape = tuple(values.shape[1:])
    if values.is_floating_point():
        return Property(shape, float)
    if values.dtype == torch.bool:
        return Property(shape, bool)
    is_label = shape == () and len(values) > 0 and int(values.min()) >= 0
    return Property(shape, int, int(values.max()) + 1 if is_label else None)
