"""Where the paths of a document stand in its text, for messages that point there."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property

from noether.spec.locate.spans import Located, Span, TomlPath
from noether.spec.locate.walk import Offsets, Record, walk


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
