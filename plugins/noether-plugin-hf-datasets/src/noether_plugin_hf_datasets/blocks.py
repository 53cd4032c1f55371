"""Random access to tables that stay on disk: record batches of Arrow, mapped; row groups of Parquet, decoded."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from noether.data.sources.columns import unreadable
from noether.errors import DataError
from noether_plugin_hf_datasets.columns import Column, Places, Ragged, Rows, decoded, joined, rows_at

_VIEWS_BYTES = 64 << 20
"""Bytes of views of mapped blocks that are kept; their numbers are in no memory of the process."""
_VIEW = 512
"""Bytes of a view: an array of numpy and one of Arrow."""


class Blocks:
    """A table in blocks of consecutive rows, which are read when they are needed.

    Args:
        source: Place of the data, for messages.
        schema: Names and types of the columns.
        sizes: Rows of each block.
        most_bytes: Bytes of blocks that are kept; the block that is read is, however large.

    Attributes:
        largest: Rows of the largest block.
    """

    def __init__(self, source: Path, schema: pa.Schema, sizes: Sequence[int], most_bytes: int) -> None:
        self.source, self.schema, self._most_bytes = source, schema, most_bytes
        self.starts = np.concatenate([[0], np.cumsum(np.asarray(sizes, dtype=np.int64))]).astype(np.int64)
        self.largest = max(sizes, default=0)
        self._kept: OrderedDict[tuple[int, str], Column] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict(), "_bytes": 0}

    def take(self, indices: Places, names: Sequence[str]) -> dict[str, Rows]:
        """Return the rows at `indices`, in this order; each block is read once.

        Raises:
            DataError: if a block is damaged, or does not hold numbers of one shape.
        """
        numbers = np.searchsorted(self.starts, indices, side="right") - 1
        order = np.argsort(numbers, kind="stable")
        chosen, begins = np.unique(numbers[order], return_index=True)
        within = np.split(indices[order] - self.starts[numbers[order]], begins[1:])
        parts: dict[str, list[Any]] = {name: [] for name in names}
        for number, rows in zip(chosen.tolist(), within, strict=True):
            for name, column in self._columns(number, names).items():
                parts[name].append(rows_at(column, rows))
        return {name: joined(self.source, name, parts[name], order) for name in names}

    def _columns(self, number: int, names: Sequence[str]) -> dict[str, Column]:
        lacking = [name for name in names if (number, name) not in self._kept]
        if lacking:
            found = {name: decoded(self.source, name, array) for name, array in self._read(number, lacking).items()}
            for name, column in found.items():
                self._kept[number, name] = column
                self._bytes += self._cost(column)
        block = {}
        for name in names:
            self._kept.move_to_end((number, name))
            block[name] = self._kept[number, name]
        while self._bytes > self._most_bytes and len(self._kept) > len(names):
            self._bytes -= self._cost(self._kept.popitem(last=False)[1])
        return block

    def _read(self, number: int, names: Sequence[str]) -> dict[str, pa.Array]:
        """Return columns of one block."""
        raise NotImplementedError

    def _cost(self, column: Column) -> int:
        """Return the memory of a column that is kept."""
        raise NotImplementedError


class ArrowBlocks(Blocks):
    """Record batches of a data set that `datasets` has mapped for reading.

    Args:
        source: Place of the data, for messages.
        dataset: The data set, a `datasets.Dataset`.
    """

    def __init__(self, source: Path, dataset: Any) -> None:
        self._dataset = dataset
        self._batches: list[pa.RecordBatch] | None = None
        super().__init__(source, dataset.data.schema, [batch.num_rows for batch in self._opened()], _VIEWS_BYTES)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_batches": None}  # `datasets` pickles the paths of its files

    def _opened(self) -> list[pa.RecordBatch]:
        if self._batches is None:
            table = self._dataset.data.table
            self._batches = [batch for batch in table.to_batches() if batch.num_rows]
        return self._batches

    def _read(self, number: int, names: Sequence[str]) -> dict[str, pa.Array]:
        batch = self._opened()[number]
        return {name: batch.column(name) for name in names}

    def _cost(self, column: Column) -> int:
        if isinstance(column, Ragged):
            return _VIEW + column.offsets.nbytes
        return _VIEW + (column.nbytes if column.dtype == np.bool_ else 0)  # Arrow has bits, which are copied


class RowGroups(Blocks):
    """Row groups of Parquet files, read in place; those that were read last are kept.

    Args:
        source: Place of the data, for messages.
        files: The files, in the order of their samples.
        most_bytes: Bytes of decoded row groups that are kept; at least one group is.

    Raises:
        DataError: if a file is damaged, or has other columns than the first.
    """

    def __init__(self, source: Path, files: Sequence[Path], most_bytes: int) -> None:
        self._files = tuple(files)
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
        super().__init__(source, schema, sizes, most_bytes)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_open": {}, "_opened_by": 0}

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
                raise unreadable(path, error) from error
        return self._open[place]

    def _read(self, number: int, names: Sequence[str]) -> dict[str, pa.Array]:
        place, group = self._groups[number]
        try:
            table = self._file(place).read_row_group(group, columns=list(names), use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise unreadable(self._files[place], error) from error
        return {name: _one_array(table.column(name)) for name in names}

    def _cost(self, column: Column) -> int:
        return column.nbytes


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


def _status(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
