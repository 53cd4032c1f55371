"""Columns of csv, tsv and parquet files: delimiters, types, missing values, and texts as categories."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from noether.data.sources.columns import (
    TABLES,
    Choose,
    Columns,
    checked_names,
    codes_of,
    from_numpy,
    no_file,
    require_file,
    unreadable,
    wrong_type,
)
from noether.data.sources.delimited import TableFormat, is_number, ragged_line, read_csv
from noether.errors import DataError
from noether.spec.errors.words import quoted, toml_key, toml_literal

MISSING = frozenset(("", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "#N/A"))
"""Texts that stand for a missing value, unless the categories of their column have them."""
_SHOWN = 5  # rows or values that a message names
_TIMES = "times are numbers, or dates such as 2026-01-31 or 2026-01-31T13:45"
_COMMA_NUMBER = re.compile(r"[-+]?\d+,\d+(e[-+]?\d+)?", re.IGNORECASE)
_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+")
_WITH_UNIT = re.compile(r"[-+]?\d[\d.,]*\s*[^\d\s.,;]{1,6}|[$€£¥]\s*\d[\d.,]*")
_DATE = re.compile(r"(\d{1,4}[-/.]\d{1,2}[-/.]\d{2,4}|\d{4}[-/.]\d{1,2}[-/.]\d)([ T]\d.*)?")


def files_of(path: Path) -> list[Path]:
    """Return the files that a path or a pattern such as `parts/*.csv` stands for, in the order of their names.

    Raises:
        DataError: if no file fits the pattern.
    """
    if not any(sign in str(path) for sign in "*?[") or path.exists():
        return [path]
    files = [Path(found) for found in sorted(glob(str(path), recursive=True)) if Path(found).is_file()]  # noqa: PTH207
    if not files:
        raise DataError(f"no file fits {path}", hint="a pattern in a spec starts at the spec's own folder")
    if len({file.suffix.lower() for file in files}) > 1:
        raise DataError(f"{path} fits files of several formats: found {files[0].name} and {files[-1].name}")
    return files


@dataclass(frozen=True)
class Table:
    """Columns of one file, or of several below each other.

    Attributes:
        path: The file or pattern, for messages.
        columns: Arrow columns by name.
        rows: Place of each row: its file and its number below the header, from 1 on.
    """

    path: Path
    columns: Any
    rows: Sequence[tuple[Path, int]] | range

    def place(self, row: int) -> str:
        """Return the place of a row in words."""
        if isinstance(self.rows, range):
            return f"row {self.rows[row] + 1} below the header"
        file, number = self.rows[row]
        return f"row {number} of {file.name}"

    def without(self, rows: Any) -> Table:
        """Return the table without the rows at which a mask is True."""
        kept = np.flatnonzero(~rows)
        places = [(self.path, row + 1) for row in self.rows] if isinstance(self.rows, range) else self.rows
        return Table(self.path, self.columns.take(kept), [places[row] for row in kept.tolist()])


def read_columns(
    path: Path, names: Collection[str] | None, form: TableFormat, codes: str | None = None, *, ordered: bool = False
) -> tuple[Columns, Tensor | None]:
    """Return columns of a table as numbers, and the group of each row from another column.

    Args:
        path: The file, or a pattern of several.
        names: Names of the columns; None for all but `codes`.
        form: Form of the table. Texts of a column in its categories become their numbers.
        codes: A column of groups or times; None for none.
        ordered: Refuse texts in that column, whose order is not that of what they mean.

    Raises:
        DataError: if a file is missing or damaged, lacks a column, or a column holds other values than numbers and
            categories.
    """
    wanted: list[str] = []

    def choose(present: list[str]) -> list[str]:
        wanted[:] = checked_names(path, names, [name for name in present if names is not None or name != codes])
        return list(dict.fromkeys([*wanted, *checked_names(path, [codes] if codes else [], present)]))

    table = read_table(path, choose, form, as_text=form.categories)
    missing = {name: missing_in(table, name, form) for name in table.columns.column_names}
    if form.missing == "drop":
        table = table.without(np.logical_or.reduce([*missing.values(), np.zeros(len(table.rows), dtype=bool)]))
        if not len(table.rows):
            raise DataError(f"{path}: no samples: every row lacks a value in {', '.join(table.columns.column_names)}")
    else:
        for name, rows in missing.items():
            if rows.any():
                raise _missing(table, name, rows)
    numbers = {name: _numbers(table, name, form) for name in wanted}
    return numbers, None if codes is None else _codes(table, codes, form, ordered=ordered)


def column_names(path: Path, form: TableFormat) -> list[str]:
    """Return the names of the columns of a table.

    Raises:
        DataError: if it is missing or damaged.
    """
    found: list[str] = []

    def none_of(present: list[str]) -> list[str]:
        found.extend(present)
        return []

    _read_one(files_of(path)[0], none_of, form, ())
    return found


def read_table(path: Path, choose: Choose, form: TableFormat, as_text: Collection[str] = ()) -> Table:
    """Return the chosen columns of a file, or of all files that fit a pattern.

    Args:
        path: The file or pattern.
        choose: Function from the names of all columns to those to read.
        form: Form of the files.
        as_text: Columns that are read as text whatever they hold.

    Raises:
        DataError: if a file is missing or damaged, or its columns differ from those of the first one.
    """
    import pyarrow

    files = files_of(path)
    first: list[str] = []
    chosen: list[str] = []

    def choose_same(present: list[str]) -> list[str]:
        if not first:
            first.extend(present)
            chosen.extend(choose(present))
        elif set(present) != set(first):
            odd = sorted(set(present) ^ set(first))
            raise DataError(
                f"different columns in {path}: found {', '.join(present)} in {file}, expected those of "
                f"{files[0].name}: {', '.join(first)}; the difference is {', '.join(odd)}"
            )
        return chosen

    tables = []
    for file in files:
        tables.append(_read_one(file, choose_same, form, as_text).select(chosen))
        try:
            joined = pyarrow.concat_tables([*tables[:1], *tables[-1:]], promote_options="permissive")
        except pyarrow.ArrowException as error:
            names = [n for n in chosen if tables[0].schema.field(n).type != tables[-1].schema.field(n).type]
            types = {str(table.schema.field(name).type) for name in names for table in (tables[0], tables[-1])}
            raise DataError(
                f"{file}: different types of {', '.join(names)}: found {' and '.join(sorted(types))}, expected those "
                f"of {files[0].name}"
            ) from error
    if len(files) == 1:
        return Table(path, tables[0], range(len(tables[0])))
    joined = pyarrow.concat_tables(tables, promote_options="permissive")
    rows = [(file, row + 1) for file, table in zip(files, tables, strict=True) for row in range(len(table))]
    return Table(path, joined, rows)


def _read_one(path: Path, choose: Choose, form: TableFormat, as_text: Collection[str]) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise DataError(f"{path}: reading {path.suffix} needs pyarrow", hint="pip install pyarrow") from error
    if path.suffix.lower() not in TABLES:
        raise no_file(path) if not path.exists() else DataError(f"{path} is not a table: expected {', '.join(TABLES)}")
    require_file(path)
    read: Callable[..., Any] = _read_parquet if path.suffix.lower() == ".parquet" else read_csv
    try:
        table = read(path, choose, form, as_text)
    except (OSError, ValueError, pyarrow.ArrowException) as error:  # ValueError: names that are not UTF-8
        if path.suffix.lower() != ".parquet" and (ragged := ragged_line(path, form)):
            raise DataError(f"{path}: {ragged}", hint="put texts that hold the delimiter in double quotes") from error
        if "Empty CSV" in str(error):
            raise DataError(f"{path}: no samples: found a header alone, expected rows below it") from error
        hint = "a csv is UTF-8, with ',' between columns and '.' in numbers"
        raise unreadable(path, error, hint if path.suffix.lower() != ".parquet" else "check the file") from error
    for name in set(as_text).intersection(table.column_names):
        place = table.column_names.index(name)
        table = table.set_column(place, name, _as_text(table[name]))
    return table


def _read_parquet(path: Path, choose: Choose, _: TableFormat, __: Collection[str]) -> Any:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        return file.read(columns=choose(file.schema_arrow.names))


# Columns


def _as_text(column: Any) -> Any:
    from pyarrow import compute, string

    return compute.utf8_trim_whitespace(column.cast(string()))


def is_text(column: Any) -> bool:
    """Return True if an Arrow column holds texts."""
    from pyarrow import types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    return bool(types.is_string(kind) or types.is_large_string(kind))


def missing_in(table: Table, name: str, form: TableFormat) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return True for each row that lacks a value of a column."""
    import pyarrow
    from pyarrow import compute, types

    column = table.columns[name]
    if not len(column):
        return np.zeros(0, dtype=bool)
    missing = column.is_null().to_numpy()
    if is_text(column):
        texts = pyarrow.array(sorted(MISSING.difference(form.categories.get(name, ()))))
        missing = missing | compute.is_in(_as_text(column), texts).to_numpy()
    if form.missing == "drop" and types.is_floating(column.type):
        missing = missing | compute.is_nan(column).fill_null(True).to_numpy()
    return np.asarray(missing, dtype=bool)


def _missing(table: Table, name: str, rows: np.ndarray[Any, np.dtype[np.bool_]]) -> DataError:
    places = [table.place(int(row)) for row in np.flatnonzero(rows)[:_SHOWN]]
    others = f", then {', '.join(places[1:])}" if places[1:] else ""
    return DataError(
        f"{table.path}: missing values in {name!r}: found {int(rows.sum())} of {len(rows)} rows without one, the first "
        f"is {places[0]}{others}",
        hint='fill them in; or leave these rows out, in a data set with missing = "drop"',
    )


def _numbers(table: Table, name: str, form: TableFormat) -> Tensor:
    """Return a column without missing values as numbers, or as those of its categories."""
    from pyarrow import types

    column = table.columns[name]
    if types.is_null(column.type):  # without rows, a csv has no types
        raise DataError(f"{table.path}: no samples: found 0 rows of {name!r}, expected at least 1")
    if name in form.categories:
        return _categories(table, name, form.categories[name])
    if is_text(column):
        raise text_error(table, name, form)
    if types.is_temporal(column.type):
        raise wrong_type(
            table.path, name, str(column.type), "write dates as numbers, such as days; they can also be split_time"
        )
    if not (types.is_integer(column.type) or types.is_floating(column.type) or types.is_boolean(column.type)):
        raise wrong_type(table.path, name, str(column.type))
    return from_numpy(table.path, name, column.to_numpy())


def _categories(table: Table, name: str, known: Sequence[str]) -> Tensor:
    import pyarrow
    from pyarrow import compute

    texts = _as_text(table.columns[name])
    places = compute.index_in(texts, pyarrow.array(list(known), type=pyarrow.string()))
    unknown = np.flatnonzero(places.is_null().to_numpy())
    if len(unknown):
        first = texts[int(unknown[0])].as_py()
        raise DataError(
            f"{table.path}: unknown category of {name!r}: found {quoted(first)} in {table.place(int(unknown[0]))}"
            f"{f' and {len(unknown) - 1} more rows' if len(unknown) > 1 else ''}, expected one of "
            f"{', '.join(map(quoted, known[:20]))}{' …' if len(known) > 20 else ''}",
            hint="a model knows the categories that it was trained with",
        )
    return from_numpy(table.path, name, places.to_numpy().astype(np.int64))


def text_error(table: Table, name: str, form: TableFormat) -> DataError:
    """Return the error for a column of texts that has no categories; says what the texts look like."""
    counts = counts_of(table.columns[name])
    different, what = list(counts), likely(counts)
    found = f"{table.columns[name].type}"
    if what == "mixed":
        return DataError(
            f"{table.path}: numbers and text in {name!r}: found {first_odd(table, name)} among numbers",
            hint="correct it; a missing value is an empty cell or NA",
        )
    hints = {
        "decimal comma": 'numbers with a comma: decimal = ","',
        "ambiguous comma": "numbers with a comma: write 1234 or 1.234, whichever it means",
        "numbers with units": "write plain numbers, with the unit in the name of the column",
        "dates": "write dates as 2026-01-31, and use them as split_time; or as numbers, such as days",
    }
    shown = toml_literal(sorted(different)) if len(different) <= 20 else f'["{different[0]}", …]'
    hint = hints.get(what, f"for categories: categories = {{ {toml_key(name)} = {shown} }}")
    example = f" such as {quoted(different[0])}" if different else ""
    return wrong_type(table.path, name, f"{found}{example}", hint)


def first_odd(table: Table, name: str) -> str:
    """Return the first text of a column that is not a number, and its place, in words."""
    texts = _as_text(table.columns[name]).to_pylist()
    odd = (row for row, text in enumerate(texts) if text is not None and text not in MISSING and not is_number(text))
    row = next(odd, 0)
    return f"{quoted(texts[row])} in {table.place(row)}"


def counts_of(column: Any) -> dict[str, int]:
    """Return the number of rows of each text of a column, without missing ones."""
    counts = _as_text(column).value_counts()
    found = {one["values"].as_py(): one["counts"].as_py() for one in counts}
    return {text: count for text, count in found.items() if text is not None and text not in MISSING}


def likely(counts: Mapping[str, int]) -> str:
    """Return what texts are likely to be: decimal comma, ambiguous comma, mixed, dates, numbers with units, or text.

    Args:
        counts: Number of rows of each text.
    """
    rows = sum(counts.values())

    def share(fits: Callable[[str], Any]) -> float:
        return sum(count for text, count in counts.items() if fits(text)) / max(1, rows)

    if share(lambda text: "," not in text or _THOUSANDS.fullmatch(text)) == 1 and share(_THOUSANDS.fullmatch) > 0.1:
        return "ambiguous comma"
    if share(lambda text: _COMMA_NUMBER.fullmatch(text) or is_number(text)) == 1:
        return "decimal comma"
    if share(is_number) > 0.5:
        return "mixed"
    if share(_DATE.fullmatch) > 0.9:
        return "dates"
    return "numbers with units" if share(_WITH_UNIT.fullmatch) > 0.9 else "text"


def _codes(table: Table, name: str, form: TableFormat, *, ordered: bool) -> Tensor:
    """Return the place of each value of a column among its different values in order."""
    column = table.columns[name]
    if is_text(column) and ordered:
        raise wrong_type(table.path, name, f"text {first_odd(table, name)}", _TIMES)
    if is_text(column):
        return from_numpy(table.path, name, np.unique(_as_text(column).to_numpy(), return_inverse=True)[1])
    from pyarrow import int64, types

    if types.is_temporal(column.type):
        column = column.cast(f"int{column.type.bit_width}").cast(int64())
    return codes_of(table.path, name, from_numpy(table.path, name, column.to_numpy()))
