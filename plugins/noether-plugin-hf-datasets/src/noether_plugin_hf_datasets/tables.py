"""Tables that stay on disk: Arrow, mapped by `datasets`; Parquet in place; their columns as arrays and tensors."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet, types
from torch import Tensor

from noether.data.sources.columns import from_numpy
from noether.errors import DataError

Array = np.ndarray[Any, Any]
Places = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows whose first dimension varies.

    Attributes:
        values: The rows one after the other.
        offsets: Place of the start of each row in `values`, and of the end of the last one.
    """

    values: Array
    offsets: Places

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.values.nbytes + self.offsets.nbytes


Column = Array | Ragged
Rows = Tensor | list[Tensor]
"""Rows of a column: one tensor, or one for each row if they differ in shape."""


def require_numbers(source: Path, name: str, kind: pa.DataType) -> pa.DataType:
    """Return the type of the numbers in a column.

    Raises:
        DataError: if it holds something else.
    """
    inner = kind
    while True:
        if isinstance(inner, pa.BaseExtensionType):
            inner = inner.storage_type
        elif types.is_list(inner) or types.is_large_list(inner) or types.is_fixed_size_list(inner):
            inner = inner.value_type
        else:
            break
    if not (types.is_integer(inner) or types.is_floating(inner) or types.is_boolean(inner)):
        raise DataError(
            f"{source}: wrong type of {name!r}: found {kind}, expected numbers or booleans, or lists of them",
            hint="choose other columns with `properties`",
        )
    return inner


def decoded(source: Path, name: str, array: pa.Array) -> Column:
    """Return a column as an array, without a copy if Arrow allows that.

    Raises:
        DataError: if it has missing values, or lists that differ in length below their first dimension.
    """
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if array.null_count:
        raise missing(source, name, array.null_count)
    if types.is_fixed_size_list(array.type):
        return _dense(source, name, array.flatten(), len(array), array.type.list_size)
    if types.is_list(array.type) or types.is_large_list(array.type):
        offsets = array.offsets.to_numpy().astype(np.int64)
        lengths = np.diff(offsets)
        if len(lengths) and (lengths == lengths[0]).all():
            return _dense(source, name, array.flatten(), len(array), int(lengths[0]))
        inner = decoded(source, name, array.flatten())
        if isinstance(inner, Ragged):
            raise _varies(source, name)
        return Ragged(inner, offsets - offsets[0])
    values: Array = array.to_numpy(zero_copy_only=False)
    return values


def missing(source: Path, name: str, count: int) -> DataError:
    """Return the error for a column with missing values."""
    return DataError(
        f"{source}: missing values in {name!r}: found {count}, expected none",
        hint="fill them in, or leave these rows out: dataset.filter(…), then save_to_disk",
    )


def gaps_in(array: pa.Array) -> int:
    """Return the number of missing values in an array and the lists in it."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    is_list = types.is_list(array.type) or types.is_large_list(array.type) or types.is_fixed_size_list(array.type)
    return int(array.null_count) + (gaps_in(array.flatten()) if is_list else 0)


def _dense(source: Path, name: str, flat: pa.Array, rows: int, size: int) -> Array:
    inner = decoded(source, name, flat)
    if isinstance(inner, Ragged):
        raise _varies(source, name)
    return inner.reshape(rows, size, *inner.shape[1:])


def _varies(source: Path, name: str) -> DataError:
    return DataError(
        f"{source}: wrong shapes of {name!r}: found inner lists of different lengths, expected that only the first "
        "dimension of a sample varies",
        hint="choose other columns with `properties`, or pad the inner lists",
    )


def all_rows(source: Path, name: str, column: Column) -> Rows:
    """Return all rows of a column as tensors, in the types of the file."""
    if isinstance(column, np.ndarray):
        return from_numpy(source, name, column)
    order = np.arange(len(column))
    return joined(source, name, [rows_at(column, order)], order)


def rows_at(column: Column, places: Places) -> Array | list[Array]:
    """Return copies of the rows at `places`: one array, or one for each row of a ragged column."""
    if isinstance(column, Ragged):
        return [column.values[column.offsets[place] : column.offsets[place + 1]].copy() for place in places]
    rows: Array = column[places]
    return rows


def joined(source: Path, name: str, parts: Sequence[Array | list[Array]], order: Places) -> Rows:
    """Return rows of several blocks as tensors, in the types of the file.

    Args:
        source: Place of the data, for messages.
        name: Name of the column.
        parts: Rows of each block.
        order: Place of each row of `parts` in the result.
    """
    dense = [part for part in parts if isinstance(part, np.ndarray)]
    if len(dense) == len(parts) and len({part.shape[1:] for part in dense}) == 1:
        rows = np.concatenate(dense)
        result = np.empty_like(rows)
        result[order] = rows
        return from_numpy(source, name, result)
    ordered: list[Array] = [np.empty(0)] * len(order)
    for place, row in zip(order.tolist(), (row for part in parts for row in part), strict=True):
        ordered[place] = row
    tensors = [from_numpy(source, name, row) for row in ordered]
    return torch.stack(tensors) if len({tensor.shape for tensor in tensors}) == 1 else tensors


class Table(Protocol):
    """Rows that are read when they are needed.

    Attributes:
        source: Place of the data, for messages.
        schema: Names and types of the columns.
    """

    source: Path
    schema: pa.Schema

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def take(self, indices: Places, names: Sequence[str]) -> dict[str, Rows]:
        """Return columns of the rows at `indices`, in this order.

        Raises:
            DataError: if the data are damaged, have missing values, or no shape of a sample.
        """
        ...

    def require_no_gaps(self, names: Sequence[str]) -> None:
        """Refuse missing values, as far as they are found without reading the numbers.

        Raises:
            DataError: if a column has some.
        """
        ...


class ArrowTable:
    """A data set that `datasets` has mapped for reading; pickled, it is the names of its files.

    Args:
        source: Place of the data, for messages.
        dataset: The data set, a `datasets.Dataset`.
    """

    def __init__(self, source: Path, dataset: Any) -> None:
        self.source, self.schema = source, dataset.data.schema
        self._dataset = dataset.with_format("arrow")

    def __len__(self) -> int:
        return len(self._dataset)

    def take(self, indices: Places, names: Sequence[str]) -> dict[str, Rows]:
        """Return columns of the rows at `indices`, in this order."""
        if set(names) != set(self._dataset.column_names):
            self._dataset = self._dataset.select_columns(list(names))
        table = self._dataset[indices.tolist()]
        columns = {name: decoded(self.source, name, _one_array(table.column(name))) for name in names}
        return {name: all_rows(self.source, name, column) for name, column in columns.items()}

    def require_no_gaps(self, names: Sequence[str]) -> None:
        """Refuse missing values."""
        for name in names:
            gaps = sum(gaps_in(chunk) for chunk in self._dataset.data.column(name).chunks)
            if gaps:
                raise missing(self.source, name, gaps)


class RowGroups:
    """Row groups of Parquet files, read in place; those that were read last are kept.

    Args:
        source: Place of the data, for messages.
        files: The files, in the order of their samples.
        most_bytes: Bytes of decoded row groups that are kept; the one that is read is, however large.

    Attributes:
        largest: Rows of the largest row group.

    Raises:
        DataError: if a file is damaged, or has other columns than the first.
    """

    def __init__(self, source: Path, files: Sequence[Path], most_bytes: int) -> None:
        self.source, self._files, self._most_bytes = source, tuple(files), most_bytes
        self._kept: OrderedDict[tuple[int, str], Column] = OrderedDict()
        self._bytes = 0
        self._opened_by = 0
        self._open: dict[int, parquet.ParquetFile] = {}
        self._status = [_status(file) for file in self._files]
        self._groups: list[tuple[int, int]] = []
        sizes, schema = [], None
        for place, file in enumerate(self._files):
            opened = self._file(place)
            schema = opened.schema_arrow if schema is None else schema
            if not opened.schema_arrow.equals(schema):
                raise DataError(
                    f"{file}: wrong columns: found {_columns(opened.schema_arrow)}, expected those of "
                    f"{self._files[0].name}: {_columns(schema)}",
                    hint="write all files with the same columns and types",
                )
            for group in range(opened.metadata.num_row_groups):
                if rows := opened.metadata.row_group(group).num_rows:
                    self._groups.append((place, group))
                    sizes.append(rows)
            self._open.clear()  # one open file at a time is enough here
        self.schema, self.largest = schema, max(sizes, default=0)
        self._starts = np.concatenate([[0], np.cumsum(np.asarray(sizes, dtype=np.int64))]).astype(np.int64)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_opened_by": 0, "_kept": OrderedDict(), "_bytes": 0}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, indices: Places, names: Sequence[str]) -> dict[str, Rows]:
        """Return columns of the rows at `indices`, in this order; each row group is read once.

        Raises:
            DataError: if a row group is damaged, or a file has changed.
        """
        groups = np.searchsorted(self._starts, indices, side="right") - 1
        order = np.argsort(groups, kind="stable")
        chosen, begins = np.unique(groups[order], return_index=True)
        within = np.split(indices[order] - self._starts[groups[order]], begins[1:])
        parts: dict[str, list[Any]] = {name: [] for name in names}
        for group, rows in zip(chosen.tolist(), within, strict=True):
            for name, column in self._columns(group, names).items():
                parts[name].append(rows_at(column, rows))
        return {name: joined(self.source, name, parts[name], order) for name in names}

    def require_no_gaps(self, names: Sequence[str]) -> None:
        """Refuse missing values of plain columns, which the statistics of the files count."""
        for place, group in self._groups:
            metadata = self._file(place).metadata.row_group(group)
            for column in map(metadata.column, range(metadata.num_columns)):
                counts = column.statistics if column.path_in_schema in names else None
                if counts is not None and counts.has_null_count and counts.null_count:
                    raise missing(self._files[place], column.path_in_schema, counts.null_count)

    def _columns(self, number: int, names: Sequence[str]) -> dict[str, Column]:
        if lacking := [name for name in names if (number, name) not in self._kept]:
            for name, array in self._read(number, lacking).items():
                self._kept[number, name] = decoded(self.source, name, array)
                self._bytes += self._kept[number, name].nbytes
        group = {}
        for name in names:
            self._kept.move_to_end((number, name))
            group[name] = self._kept[number, name]
        while self._bytes > self._most_bytes and len(self._kept) > len(names):
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return group

    def _file(self, place: int) -> parquet.ParquetFile:
        """Return a file as this process has opened it: a worker shares no handle with its parent."""
        if self._opened_by != os.getpid():
            self._open, self._opened_by = {}, os.getpid()
        path = self._files[place]
        if (now := _status(path)) != self._status[place]:
            raise DataError(
                f"{path} has changed while it was read: found {now[0]} bytes, expected those of the "
                f"{self._status[place][0]} that it had",
                hint="write new data to a new file, and begin a new run",
            )
        if place not in self._open:
            if len(self._open) >= 64:  # a data set may have more files than a process may open
                self._open.pop(next(iter(self._open))).close()
            try:
                self._open[place] = parquet.ParquetFile(path, pre_buffer=False)
            except (OSError, pa.ArrowException) as error:
                raise _unreadable(path, error) from error
        return self._open[place]

    def _read(self, number: int, names: Sequence[str]) -> dict[str, pa.Array]:
        place, group = self._groups[number]
        try:
            table = self._file(place).read_row_group(group, columns=list(names), use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(self._files[place], error) from error
        return {name: _one_array(table.column(name)) for name in names}


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


def _status(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read as Parquet: {error}", hint="check that the file is complete")
