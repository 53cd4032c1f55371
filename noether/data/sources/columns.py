"""Named arrays of a data file, read without running code that it holds."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from noether.checkpoint.tensor_file import LENGTH, header_length, require_plausible
from noether.data.splits import ColumnSplitConfig
from noether.errors import DataError
from noether.kernel.names import did_you_mean
from noether.spec.scaffold import Property

Columns = dict[str, Tensor]
Choose = Callable[[list[str]], list[str]]
"""Function from the names that a file has to those to read."""
Reader = Callable[[Path, Choose], Columns]


class ArraysConfig(ColumnSplitConfig):
    """Settings of data sets that are arrays or columns of files."""

    path_fields: ClassVar[tuple[str, ...]] = ("path",)

    path: str = Field(examples=["data/wing.npz"], description="The file.")
    properties: dict[str, str | list[str]] | None = Field(
        None,
        examples=[{"points": ["x", "y", "z"], "pressure_target": "p"}],
        description="Properties by name: one array or column as it is (`label = 'class'`), or several of one "
        "number a sample side by side (`velocity = ['u', 'v']`). Without it every array is a property.",
    )


def read_arrays(path: Path, names: Collection[str] | None) -> Columns:
    """Return the arrays `names` of an .npz or .safetensors file, or all of them.

    Raises:
        DataError: if the file is missing, of an unknown format, or damaged, lacks one of `names`, or holds values
            that are not numbers.
    """
    return _reader(path)(path, lambda present: checked_names(path, names, present))


def array_names_in(path: Path) -> list[str]:
    """Return the names of all arrays of an .npz or .safetensors file, without reading their values.

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
            f"{path}: unknown format: found {path.suffix or 'no suffix'!r}, expected one of "
            f"{', '.join([*_READERS, *TABLES])}",
            hint=_OTHER_FORMATS.get(path.suffix.lower(), _OTHER_KINDS),
        )
    require_file(path)
    return reader


_OTHER_KINDS = (
    '.npy, a folder of them, .h5, .hdf5 and .zarr are read by kind = "disk", folders of images by kind = "images"'
)
_OTHER_FORMATS = {
    ".gz": "unpack it: gunzip --keep",
    ".zip": "unpack it: unzip",
    ".txt": "a table is called .csv or .tsv: rename it",
    ".dat": "a table is called .csv or .tsv: rename it",
    ".xlsx": "save the sheet as 'CSV UTF-8'",
    ".xls": "save the sheet as 'CSV UTF-8'",
}


def require_file(path: Path) -> None:
    """Refuse a path that is not one of a file.

    Raises:
        DataError: if it is not.
    """
    if not os.path.isfile(path):  # noqa: PTH113  # that of pathlib raises for a name that is too long
        raise no_file(path)


def no_file(path: Path) -> DataError:
    """Return the error for a path that is not one of a file; names those that are near."""
    if os.path.exists(path):  # noqa: PTH110
        is_folder = os.path.isdir(path)  # noqa: PTH112
        found = "is a folder" if is_folder else "is a pipe or a device, which can be read once only"
        return DataError(f"{path} {found}, expected a file")
    near = sorted(other.name for other in path.parent.glob(f"*{path.suffix}")) if os.path.isdir(path.parent) else []  # noqa: PTH112
    beside = f"; its folder has {', '.join(near[:10])}" if near else ""
    return DataError(
        f"{path} does not exist{beside}",
        hint="a path in a spec starts at the spec's own folder, one of the command line at the working folder",
    )


def _read_npz(path: Path, choose: Choose) -> Columns:
    try:
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: wrong content: found a single array without a name, expected an .npz archive")
            return {name: from_numpy(path, name, _member(path, name, archive)) for name in choose(archive.files)}
    except DataError:
        raise
    except (OSError, ValueError, EOFError, MemoryError, RecursionError, zipfile.BadZipFile) as error:
        raise unreadable(path, error) from error


def _member(path: Path, name: str, archive: Any) -> Any:
    try:
        return archive[name]
    except ValueError as error:
        if "Object arrays" in str(error):
            raise wrong_type(path, name, "Python objects") from error
        raise


def _read_safetensors(path: Path, choose: Choose) -> Columns:
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb") as stream:
            length = header_length(stream.read(LENGTH), path.stat().st_size)
            require_plausible(stream.read(length))
        with safe_open(path, framework="pt") as file:
            return {name: from_torch(path, name, file.get_tensor(name)) for name in choose(list(file.keys()))}
    except (OSError, ValueError, SafetensorError) as error:
        raise unreadable(path, error) from error


_READERS: dict[str, Reader] = {".npz": _read_npz, ".safetensors": _read_safetensors}
TABLES = (".parquet", ".csv", ".tsv")
"""Suffixes of tables, which `noether.data.sources.tables` reads."""


def checked_names(path: Path, names: Collection[str] | None, present: list[str]) -> list[str]:
    """Return the names of the arrays to read.

    Args:
        path: Place of the data, for messages.
        names: The names that a config asks for; None for all.
        present: Those that the data have.

    Raises:
        DataError: if one of `names` is not present, is there twice, or cannot be printed.
    """
    for name in names or ():
        if name not in present:
            guess = did_you_mean(name, present)
            raise DataError(f"{path}: unknown array: found {name!r}, expected one of {', '.join(present)}.{guess}")
    chosen = list(present if names is None else names)
    for name in chosen:
        if (times := present.count(name)) > 1:
            raise DataError(f"{path}: doubled column: found {name!r} {times} times, expected different names")
        if not name or not name.isprintable():
            raise DataError(f"{path}: wrong name of a column: found {name!r}, expected printable text")
    return chosen


def array_names(properties: dict[str, str | list[str]]) -> list[str]:
    """Return each array that is used, once."""
    used = (name for names in properties.values() for name in ([names] if isinstance(names, str) else names))
    return list(dict.fromkeys(used))


def assembled(path: Path, properties: dict[str, str | list[str]], columns: Columns) -> dict[str, Tensor]:
    """Return the properties that arrays make.

    Raises:
        DataError: if the arrays differ in length, or those of a property are not one number a sample.
    """
    common_length(path, columns)
    result = {}
    for name, parts in properties.items():
        if isinstance(parts, str):
            result[name] = columns[parts]
            continue
        if not parts:
            raise DataError(
                f"{path}: no arrays for property {name!r}: found [], expected at least one name",
                hint=f"list names of arrays, such as {name} = {list(columns)[:2]}",
            )
        for part in parts:
            if columns[part].ndim != 1 and tuple(columns[part].shape[1:]) != (1,):
                shape = tuple(columns[part].shape)
                raise DataError(
                    f"{path}: wrong shape of {part!r} in property {name!r}: found {shape}, expected (samples,)",
                    hint=f'to use it as it is: {name} = "{part}"',
                )
        columns_of = [columns[part].reshape(-1) for part in parts]  # one number a sample may be (samples, 1)
        if len({column.dtype for column in columns_of}) > 1:
            columns_of = [column.double() for column in columns_of]
        result[name] = torch.stack(columns_of, dim=1)
    return result


def common_length(path: Path, tensors: dict[str, Tensor]) -> int:
    """Return the number of samples.

    Raises:
        DataError: if the arrays differ in length.
    """
    lengths = {name: len(tensor) if tensor.ndim else None for name, tensor in tensors.items()}
    if len(set(lengths.values())) != 1 or None in lengths.values():
        found = ", ".join(f"{name}: {'no dimension' if n is None else n}" for name, n in lengths.items())
        raise DataError(
            f"{path}: wrong lengths of arrays: found {found or 'no array'}, expected one entry a sample",
            hint="choose arrays of one length with `properties`",
        )
    length = next(iter(lengths.values()))
    assert length is not None
    return length


def codes_of(path: Path, name: str, values: Tensor) -> Tensor:
    """Return the number of each value among the different ones in their order, for a split.

    Raises:
        DataError: if it is not one number a sample.
    """
    if values.ndim != 1 and values.numel() != len(values):
        raise DataError(f"{path}: {name!r} cannot split: found shape {tuple(values.shape)}, expected (samples,)")
    codes: Tensor = torch.unique(values.reshape(-1), return_inverse=True)[1]
    return codes


def from_numpy(path: Path, name: str, array: np.ndarray[Any, Any] | bytes) -> Tensor:
    """Return an array as a tensor, unsigned integers as int64.

    Raises:
        DataError: if it holds anything but numbers of at most 64 bits.
    """
    if isinstance(array, bytes):
        raise DataError(f"{path}: wrong content of {name!r}: found bytes, expected an array")
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise wrong_type(path, name, str(array.dtype))
    if array.dtype.kind == "u":
        if array.size and int(array.max()) > _LARGEST:
            raise _too_large(path, name, str(array.dtype), int(array.max()))
        array = array.astype(np.int64)  # torch knows no arithmetic for most unsigned types
    native = np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")
    return torch.from_numpy(native if native.flags.writeable else native.copy())


def from_torch(path: Path, name: str, tensor: Tensor) -> Tensor:
    """Return a tensor of a file, unsigned integers as int64.

    Raises:
        DataError: if it is complex, or holds integers that int64 cannot.
    """
    if tensor.dtype in _UNSIGNED:
        return from_numpy(path, name, tensor.numpy())
    if tensor.is_complex():
        raise wrong_type(path, name, str(tensor.dtype).removeprefix("torch."))
    return tensor


_LARGEST = 2**63 - 1
_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)


def wrong_type(path: Path, name: str, found: str, hint: str | None = None) -> DataError:
    """Return the error for an array of other values than numbers."""
    usual = "choose other arrays with `properties`, or write this one as an array of numbers of one shape a sample"
    return DataError(
        f"{path}: wrong type of {name!r}: found {found}, expected booleans, integers or floats of at most 64 bits",
        hint=hint or usual,
    )


def _too_large(path: Path, name: str, found: str, largest: int) -> DataError:
    return DataError(
        f"{path}: integers of {name!r} are too large: found {found} up to {largest}, expected at most {_LARGEST}",
        hint="write them as float64, or subtract an offset",
    )


def unreadable(path: Path, error: Exception, hint: str = "check that the file is complete") -> DataError:
    """Return the error for a file that its format does not allow, or that the disk does not give."""
    return DataError(f"{path} cannot be read as {path.suffix.lower()}: {error}", hint=hint)


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
        return Property(shape, float, values=_range(values))
    if values.dtype == torch.bool:
        return Property(shape, bool)
    is_label = shape == () and len(values) > 0 and int(values.min()) >= 0
    return Property(shape, int, int(values.max()) + 1 if is_label else None, values=_range(values))


def _range(values: Tensor) -> str:
    low, high = values.aminmax() if values.numel() else (0, 0)
    return f"{float(low):.6g} … {float(high):.6g}"
