"""Csv and tsv files: delimiter, encoding, header, and lines with another number of columns."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from noether.data.sources.columns import Choose, require_file
from noether.errors import DataError
from noether.spec.errors.words import toml_literal

_DELIMITERS = {",": "','", ";": "';'", "\t": "a tab", "|": "'|'"}
_BEGINNING = 1 << 16  # bytes that are looked at for the delimiter and the encoding
_SHOWN = 5  # names that a message lists


@dataclass(frozen=True)
class TableFormat:
    """Form of a table.

    Attributes:
        delimiter: Character between columns of a csv; None for the one that its first lines have.
        decimal: Character before the fraction of a number.
        categories: Texts that a column may hold, by its name; the place of a text is its number.
        missing: Refuse rows that lack a value, or leave them out.
    """

    delimiter: str | None = None
    decimal: str = "."
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)
    missing: Literal["error", "drop"] = "error"


def read_csv(path: Path, choose: Choose, form: TableFormat, as_text: Collection[str]) -> Any:
    """Return the chosen columns of a csv as an Arrow table; a column has the type of all its rows."""
    import pyarrow
    from pyarrow import csv as arrow

    delimiter = form.delimiter or delimiter_of(path)
    parsing = arrow.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    with arrow.open_csv(path, parse_options=parsing) as file:
        names = file.schema.names
    _require_header(path, names)
    present = choose(names)
    if not present:
        return pyarrow.table({})
    whole = arrow.ReadOptions(block_size=min(max(path.stat().st_size, 1 << 20), (1 << 31) - 1))  # types are of all rows
    converting = arrow.ConvertOptions(
        include_columns=present,
        decimal_point=form.decimal,
        column_types=dict.fromkeys(set(as_text).intersection(present), pyarrow.string()),
    )
    return arrow.read_csv(path, whole, parsing, converting)


def delimiter_of(path: Path) -> str:
    """Return the character between the columns of a csv, from its first lines.

    Raises:
        DataError: if the file is empty, it is not UTF-8, or several characters are possible.
    """
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    records = {sign: _counts(path, sign) for sign in _DELIMITERS}
    even = [sign for sign, counts in records.items() if counts and counts[0] > 1 and len(set(counts)) == 1]
    if usual in even or not even:
        return usual
    if len(even) > 1:
        raise DataError(
            f"{path}: several possible delimiters: found {' and '.join(_DELIMITERS[sign] for sign in even)}",
            hint=f"say which: delimiter = {toml_literal(even[0])}",
        )
    return even[0]


def _counts(path: Path, delimiter: str) -> list[int]:
    """Return the numbers of columns in the first complete lines."""
    lines = _first_lines(path)
    return [len(record) for record in islice(csv.reader(lines, delimiter=delimiter), 20) if record]


def _first_lines(path: Path) -> list[str]:
    require_file(path)
    with path.open("rb") as file:
        beginning = file.read(_BEGINNING)
    if beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in beginning:
        found = "UTF-16" if beginning[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "bytes that are no text"
        raise DataError(f"{path} is not a csv in UTF-8: found {found}", hint="save it as 'CSV UTF-8'")
    if not beginning.strip():
        raise DataError(f"{path} is empty: found no text, expected a header and rows below it")
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(beginning)
    except UnicodeDecodeError as error:
        line = beginning.count(10, 0, error.start) + 1  # 10 is a line feed
        raise DataError(
            f"{path} is not a csv in UTF-8: found the byte 0x{beginning[error.start]:02x} in line {line}",
            hint="a csv is UTF-8: save it as 'CSV UTF-8', or convert it: iconv -f latin1 -t utf-8",
        ) from error
    lines = list(StringIO(text))  # splitlines() cuts at more than line ends
    return lines[:-1] if len(beginning) == _BEGINNING and len(lines) > 1 else lines


def _require_header(path: Path, names: Sequence[str]) -> None:
    given = [name for name in names if name.strip()]
    if len(given) > 1 and all(is_number(name) for name in given):
        raise DataError(
            f"{path} has no header: found the numbers {', '.join(given[:_SHOWN])} in its first line, expected names of "
            "columns",
            hint="write a line with a name for each column above the rows",
        )


def is_number(text: str) -> bool:
    """Return True if a text is a number with a decimal point."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # Python reads 1_000, Arrow does not


def ragged_line(path: Path, form: TableFormat) -> str | None:
    """Return the first line with another number of columns than the header, in words."""
    delimiter = form.delimiter or delimiter_of(path)
    with path.open(encoding="utf-8-sig", newline="", errors="replace") as file:
        records = csv.reader(file, delimiter=delimiter)
        try:
            expected = len(next(records))
            for record in records:
                if record and len(record) != expected:
                    return (
                        f"wrong number of columns in line {records.line_num}: found {len(record)}, expected {expected}"
                    )
        except (csv.Error, StopIteration):
            return None
    return None
