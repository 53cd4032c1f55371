"""Places in a text that a user wrote, and positions of keys, values and headers in TOML, which `tomllib` leaves out.

The locator runs after the parser has accepted the text, so it never has to tell valid TOML from invalid.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of a text.

    Attributes:
        origin: The file, or `command line, argument 2`.
        line: First line, from 1.
        column: Its first character, from 1.
        end_line: Last line.
        end_column: The character behind the last one.
        text: The whole first line.
        is_file: True if `origin` is a file.
        via: The file and line that extend this file, `specs/a.toml:5`; None for the spec itself.
        label: Note on this place, if a problem has several.
    """

    origin: str
    line: int
    column: int
    end_line: int
    end_column: int
    text: str
    is_file: bool = True
    via: str | None = None
    label: str = ""


class SourceText:
    """A text with the places in it, valid TOML or not.

    Args:
        origin: The file, or the argument.
        text: The text; lines end with `\\n` or `\\r\\n`.
        is_file: True if `origin` is a file.
        via: The file and line that extend this file.
    """

    def __init__(self, origin: str, text: str, *, is_file: bool = True, via: str | None = None) -> None:
        self.origin = origin
        self.text = text
        self._is_file = is_file
        self._via = via
        self._lines: dict[int, str] = {}  # places on one very long line share it

    def place(self, start: int, end: int) -> Place:
        """Return the place of `text[start:end]`."""
        line, column = self._line_column(start)
        end_line, end_column = self._line_column(max(start, end))
        return Place(self.origin, line, column, end_line, end_column, self._line_text(line), self._is_file, self._via)

    def first_line(self) -> Place:
        """Return the place of the first line, for problems of the whole text."""
        return self.place(0, len(self._line_text(1)))

    def offset(self, line: int, column: int) -> int:
        """Return the offset of a line and column, both from 1; at most the end of the text."""
        if line > len(self._line_starts):
            return len(self.text)
        return min(self._line_starts[line - 1] + column - 1, len(self.text))

    def _line_column(self, offset: int) -> tuple[int, int]:
        line = bisect_right(self._line_starts, offset)
        return line, offset - self._line_starts[line - 1] + 1

    def _line_text(self, line: int) -> str:
        if line not in self._lines:
            start = self._line_starts[line - 1]
            end = self.text.find("\n", start)
            self._lines[line] = (self.text[start:] if end < 0 else self.text[start:end]).removesuffix("\r")
        return self._lines[line]

    @cached_property
    def _line_starts(self) -> list[int]:
        # No Python code runs for each line: a hostile file has a million of them.
        lengths = map(len, self.text.split("\n")[:-1])
        return list(accumulate(map((1).__add__, lengths), initial=0))


TomlPath: TypeAlias = tuple[str | int, ...]
"""Keys and indices from the root of a document, as `tomllib` nests its tables and lists."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the text: `text[start:end]`, counted in characters."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Located:
    """Spans of one table, list or value of the document.

    Attributes:
        key: Its own key, the last part of a dotted one. None for the items of a list in brackets and for the document.
        value: The part behind the `=`, the item of a list in brackets, or the whole document. None for tables and
            arrays of tables made by headers or dotted keys.
        header: The header `[a.b]` or `[[a.b]]` that opens the table, or this item of an array of tables. Without its
            own (the table above another header's, an array of tables as a whole), the first header that implies it.
        dotted: The whole dotted key that `key` is part of, in a header without its brackets; equal to `key` without
            dots.
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

    The result for any other text is undefined.
    """
    walker = _Walker(text)
    walker.document()
    return walker.records


class _Walker:
    """Reader of the text from start to end; each method takes an offset and returns the offset behind its part."""

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
        """Return the path of the table that the parts of a key lead to; the first mention makes a table."""
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
    """Spans in a TOML text by path.

    Args:
        text: A text that `tomllib.loads` accepts, without byte order mark. Line ends are `\\n` or `\\r\\n`; offsets
            count the characters of this text.
    """

    def __init__(self, text: str) -> None:
        self._records: dict[TomlPath, Record] = walk(text)
        self._records[()] = (None, (0, len(text)), None, None)

    def __iter__(self) -> Iterator[TomlPath]:
        """Yield the paths of all values of the document; `()` is the document."""
        return iter(self._records)

    def of(self, path: TomlPath) -> Located | None:
        """Return the spans of this path, or None if the text does not have it."""
        record = self._records.get(path)
        return None if record is None else Located(*map(_span, record))

    def nearest(self, path: TomlPath) -> tuple[TomlPath, Located]:
        """Return the longest prefix of a path that the text has, and its spans; `()` is the whole document."""
        while (located := self.of(path)) is None:
            path = path[:-1]
        return path, located


def _span(offsets: Offsets | None) -> Span | None:
    return None if offsets is None else Span(*offsets)
