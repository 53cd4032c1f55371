"""Places in a text that a user wrote: a spec file, or an argument of the command line."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate


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
