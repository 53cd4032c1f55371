"""One pass over a TOML text that notes where everything is written."""

from __future__ import annotations

import re
from typing import TypeAlias

from noether.spec.locate.spans import TomlPath
from noether.spec.locate.tokens import GAP, KEY_PART, VALUE, key_name

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
