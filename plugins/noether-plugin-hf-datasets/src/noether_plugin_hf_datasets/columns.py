"""Columns of Arrow tables as arrays of numbers, and their rows as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow import types
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
