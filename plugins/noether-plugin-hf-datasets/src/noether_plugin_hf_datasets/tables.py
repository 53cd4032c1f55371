"""Tables that stay on disk: Arrow, mapped by `datasets`; Parquet in place, a row group at a time."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from noether.errors import DataError
from noether_plugin_hf_datasets.columns import (
    Column,
    Places,
    Rows,
    all_rows,
    decoded,
    gaps_in,
    joined,
    missing,
    rows_at,
)


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
