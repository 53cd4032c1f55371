"""A layer of a spec: who says something, in which words, and where exactly."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from noether.spec.locate import Located, Locations, Span, TomlPath
from noether.spec.place import Place, SourceText

BEGINNING = "value = "
"""What is put before the value of an argument to make it TOML."""


class Layer:
    """A layer whose values stand in no text, such as those from Python, or all in one place.

    Args:
        origin: The file, `command line, argument 2`, `set` or `the spec`.
        folder: What its relative paths start from.
        spot: The place of everything in it, if there is one.

    Attributes:
        notes: What was changed to understand an older format.
        moved: Where in the text a value of today's format is written that had another path.
    """

    def __init__(self, origin: str, folder: Path, spot: Place | None = None) -> None:
        self.origin = origin
        self.folder = folder
        self.notes: tuple[str, ...] = ()
        self.moved: dict[TomlPath, TomlPath] = {}
        self._spot = spot

    def place(self, path: TomlPath, *, key: bool = False) -> Place | None:
        """Return where the value at `path` of this layer is written, or its key; None where it is in no text."""
        return self._spot

    def opens(self, path: TomlPath) -> bool:
        """Whether the table at `path` is written as such, rather than made by a header or key of something below it."""
        return True


class FileLayer(Layer):
    """The values of one file.

    Args:
        path: The file.
        source: Its text.
        table: What it says, in plain values.
    """

    def __init__(self, path: Path, source: SourceText, table: dict[str, Any]) -> None:
        super().__init__(str(path), path.absolute().parent)
        self.path = path
        self.source = source
        self.table = table

    def place(self, path: TomlPath, *, key: bool = False) -> Place | None:
        """Return where a value or its key is written; the document as a whole is its first line."""
        if not path:
            return self.source.first_line()
        span = _span(self._locations.nearest(self.moved.get(path, path))[1], key=key)
        return self.source.place(span.start, span.end)

    def opens(self, path: TomlPath) -> bool:
        """Whether the table has a header of its own, or is an inline table."""
        located = self._locations.of(path)
        if located is None or located.value is not None:
            return True
        return (
            located.header is not None
            and located.dotted is not None
            and located.key is not None
            and (located.key.end == located.dotted.end)
        )

    @cached_property
    def _locations(self) -> Locations:  # only a spec with problems, or one that is explained, has to be searched
        return Locations(self.source.text)


class ArgumentLayer(Layer):
    """The value of one argument `path=value`.

    Args:
        source: The whole argument.
        key: Where in it the path is written.
        value: Where in it the value is written; equal to `key` where it has none.
    """

    def __init__(self, source: SourceText, key: Span, value: Span) -> None:
        super().__init__(source.origin, Path.cwd())
        self.source = source
        self._key = key
        self._value = value

    @property
    def path_place(self) -> Place:
        """Where the path is written."""
        return self.source.place(self._key.start, self._key.end)

    def place(self, path: TomlPath, *, key: bool = False) -> Place | None:
        """Return where in the argument something of its value is written; `()` is the value, or the path to it."""
        if not path:
            span = self._key if key else self._value
            return self.source.place(span.start, span.end)
        located = _span(self._locations.nearest(("value", *path))[1], key=key)
        shift = self._value.start - len(BEGINNING)
        return self.source.place(located.start + shift, located.end + shift)

    @cached_property
    def _locations(self) -> Locations:
        return Locations(BEGINNING + self.source.text[self._value.start : self._value.end])


def _span(located: Located, *, key: bool) -> Span:
    in_order = (
        (located.key, located.value, located.header)
        if key
        else (located.value, located.header, located.dotted, located.key)
    )
    return next((span for span in in_order if span is not None), Span(0, 0))
