"""What is said about a place in a TOML text."""

from __future__ import annotations

from dataclasses import dataclass
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
