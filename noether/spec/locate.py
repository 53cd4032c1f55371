"""Positions of keys, values and headers in a TOML text, which `tomllib` does not report.

The locator runs after the parser has accepted the text, so it never has to tell valid TOML from invalid.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

TomlPath: TypeAlias = tuple[str | int, ...]
"""Keys and indices from the root of a document, as `tomllib` nests its tables and lists."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the text: `text[start:end]`, counted in characters."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Located:
    """Where one table, list or value of the document is written.

    Attributes:
        key: Its own key, the last part of a dotted one. None for the items of a list in brackets and for the document.
        value: What stands behind the `=`, the item of a list in brackets, or the whole document. None for tables and
            arrays of tables that headers or dotted keys make.
        header: The header `[a.b]` or `[[a.b]]` that opens the table, or this item of an array of tables. Where it has
            none of its own (a table above another one's, an array of tables as a whole), the first that makes it.
        dotted: The whole dotted key that `key` is part of, in a header without its brackets; equal to `key` where it
            has no dots.
    """

    key: Span | None
    value: Span | None
    header: Span | None
    dotted: Span | None = None


# A comma ends no value that would not end without it, so between the items of valid TOML it is as good as a blank.
_GAP = r"(?:[ \t\r\n,]++|\#[^\n]*+)*+"

_BASIC = r'"(?:[^"\\]++|\\.)*+"'
_LITERAL = r"'[^']*+'"
# Two quotes may stand inside a multi-line string, right before the closing three too: of five, two belong to it.
_MULTILINE_BASIC = r'"""(?:"{0,2}+(?:[^"\\]++|\\.))*+"{3,5}'
_MULTILINE_LITERAL = r"'''(?:'{0,2}+[^']++)*+'{3,5}"
# Numbers, booleans and dates; after a blank only a time can follow, and only in a date.
_PLAIN = r"[^\s,\]}\#\"'\[{]++(?:\ \d\d:[^\s,\]}\#]++)?"

GAP = re.compile(_GAP)
"""Blanks, line ends, comments and commas, or nothing."""

KEY_PART = re.compile(rf"[ \t]*+([A-Za-z0-9_-]++|{_BASIC}|{_LITERAL})[ \t]*+([.=\]])", re.DOTALL)
"""Group 1: one part of a key. Group 2: what follows it, `.` before the next part."""

VALUE = re.compile(rf"{_GAP}({_MULTILINE_BASIC}|{_MULTILINE_LITERAL}|{_BASIC}|{_LITERAL}|{_PLAIN}|[\[{{\]])", re.DOTALL)
"""Group 1: a value in one token, or the bracket that opens a list or an inline table, or that closes the list."""


def key_name(part: str) -> str:
    """Return one part of a key as TOML reads it."""
    if "\\" in part:
        (name,) = tomllib.loads(f"{part} = 0")
        return name
    return part[1:-1] if part[0] in "\"'" else part


Offsets: TypeAlias = tuple[int, int]
Record: TypeAlias = tuple[Offsets | None, Offsets | None, Offsets | None, Offsets | None]
"""Start and end of key, value, header and dotted key; plain tuples, since most of them are never asked for."""

_KeyParts: TypeAlias = list[tuple[str, Offsets]]


def walk(text: str) -> dict[TomlPath, Record]:
    """Return a record for each path of a text that `tomllib` accepts.

    What it returns, or raises, for any other text is undefined.
    """
    walker = _Walker(text)
    walker.document()
    return walker.records


class _Walker:
    """Reads the text once from start to end; each method takes an offset and returns the one behind what it read."""

    def __init__(self, text: str) -> None:
        self.records: dict[TomlPath, Record] = {}
        self._text = text
        self._item_counts: dict[TomlPath, int] = {}  # of each array of tables, so far

    def document(self) -> None:
        table: TomlPath = ()
        position = self._gap(0)
        while position < len(self._text):
            if self._text[position] == "[":
                table, position = self._header(position)
            else:
                position = self._key_value(table, position)
            position = self._gap(position)

    def _header(self, start: int) -> tuple[TomlPath, int]:
        """Read `[a.b]` or `[[a.b]]`; return also the path of the table that it opens."""
        brackets = 2 if self._text.startswith("[[", start) else 1
        parts, end = self._key(start + brackets)
        header = start, end + brackets - 1
        dotted = parts[0][1][0], parts[-1][1][1]
        name, key = parts.pop()
        path: TomlPath = (*self._enter((), parts, header, dotted), name)
        record = key, None, header, dotted
        if brackets == 2:
            self.records.setdefault(path, record)
            index = self._item_counts.get(path, 0)
            self._item_counts[path] = index + 1
            path = (*path, index)
        self.records[path] = record
        return path, header[1]

    def _key_value(self, table: TomlPath, position: int) -> int:
        parts, position = self._key(position)
        dotted = parts[0][1][0], parts[-1][1][1]
        name, key = parts.pop()
        path: TomlPath = (*self._enter(table, parts, None, dotted), name)
        value = self._value(path, self._token(position))
        self.records[path] = key, value, None, dotted
        return value[1]

    def _key(self, position: int) -> tuple[_KeyParts, int]:
        """Read the parts of a key and the `=` or `]` that ends it."""
        parts: _KeyParts = []
        while True:
            match = KEY_PART.match(self._text, position)
            assert match is not None, "tomllib accepts this text"
            part, mark = match.groups()
            parts.append((key_name(part), match.span(1)))
            position = match.end()
            if mark != ".":
                return parts, position

    def _enter(self, path: TomlPath, parts: _KeyParts, header: Offsets | None, dotted: Offsets) -> TomlPath:
        """Return the path below the tables that the parts of a key lead through; the first mention makes a table."""
        for name, key in parts:
            path = (*path, name)
            self.records.setdefault(path, (key, None, header, dotted))
            if path in self._item_counts:
                path = (*path, self._item_counts[path] - 1)
        return path

    def _value(self, path: TomlPath, token: re.Match[str]) -> Offsets:
        start, end = token.span(1)
        if self._text[start] == "[":
            return start, self._list(path, end)
        if self._text[start] == "{":
            return start, self._inline_table(path, end)
        return start, end

    def _list(self, path: TomlPath, position: int) -> int:
        index = 0
        while True:
            token = self._token(position)
            if self._text[token.start(1)] == "]":
                return token.end()
            item = (*path, index)
            value = self._value(item, token)
            self.records[item] = None, value, None, None
            position = value[1]
            index += 1

    def _inline_table(self, path: TomlPath, position: int) -> int:
        while True:
            position = self._gap(position)
            if self._text[position] == "}":
                return position + 1
            position = self._key_value(path, position)

    def _token(self, position: int) -> re.Match[str]:
        match = VALUE.match(self._text, position)
        assert match is not None, "tomllib accepts this text"
        return match

    def _gap(self, position: int) -> int:
        match = GAP.match(self._text, position)
        assert match is not None, "a gap may be empty"
        return match.end()


class Locations:
    """Finds the places of a TOML text by path, and lines and columns by offset.

    Args:
        text: A text that `tomllib.loads` accepts, without byte order mark. Line ends are `\\n` or `\\r\\n`; offsets
            and columns count the characters of this text.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._records: dict[TomlPath, Record] = walk(text)
        self._records[()] = (None, (0, len(text)), None, None)

    def __iter__(self) -> Iterator[TomlPath]:
        """Go through the paths of everything that the document holds, the document itself being `()`."""
        return iter(self._records)

    def of(self, path: TomlPath) -> Located | None:
        """Return where exactly this path is written, or None where the text does not hold it."""
        record = self._records.get(path)
        return None if record is None else Located(*map(_span, record))

    def nearest(self, path: TomlPath) -> tuple[TomlPath, Located]:
        """Return the longest beginning of a path that is written in the text, and where; `()` is the whole document."""
        while (located := self.of(path)) is None:
            path = path[:-1]
        return path, located

    def line_column(self, offset: int) -> tuple[int, int]:
        """Return the line and the column of an offset, both counted from 1."""
        line = bisect_right(self._line_starts, offset)
        return line, offset - self._line_starts[line - 1] + 1

    def line_text(self, line: int) -> str:
        """Return a line, counted from 1, without its end.

        Raises:
            IndexError: The text has no such line.
        """
        if not 1 <= line <= len(self._line_starts):
            raise IndexError(f"line {line} of {len(self._line_starts)}")
        start = self._line_starts[line - 1]
        end = self._text.find("\n", start)
        return (self._text[start:] if end < 0 else self._text[start:end]).removesuffix("\r")

    @cached_property
    def _line_starts(self) -> list[int]:
        # Not `splitlines`: it takes further characters, allowed in TOML strings and comments, for line ends.
        starts = [0]
        while (end := self._text.find("\n", starts[-1])) >= 0:
            starts.append(end + 1)
        return starts


def _span(offsets: Offsets | None) -> Span | None:
    return None if offsets is None else Span(*offsets)
