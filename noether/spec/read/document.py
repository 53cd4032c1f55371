"""TOML files and Python tables as plain documents, within limits of size and depth."""

from __future__ import annotations

import ast
import datetime
import math
import re
import stat
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from pydantic import BaseModel

from noether.errors import SpecError
from noether.spec.errors.place import Place, SourceText
from noether.spec.errors.problem import InvalidSpecError, Problem
from noether.spec.errors.words import toml_path, visible
from noether.spec.locate import TomlPath
from noether.spec.read.layers import Layer

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_ITEMS = 10_000
MAX_FILES = 32
MAX_PROBLEMS = 100
"""Of more problems than that the rest is counted and not looked at."""

# Strings and comments are tokens of their own so that nothing inside them counts. An unterminated multi-line
# string runs to the end of the text, which keeps the scan linear; possessive quantifiers keep it from going
# back.
_TOKEN = re.compile(
    r'"""(?:[^"\\]++|\\.|"{1,2}(?!"))*+(?:"""|\Z)?'
    r"|'''(?:[^']++|'{1,2}(?!'))*+(?:'''|\Z)?"
    r'|"(?:[^"\\\n]++|\\[^\n])*+"?'
    r"|'[^'\n]*+'?"
    r"|\#[^\n]*+"
    r"|\n\s*+"
    r"|[\[\]{}.=,]",
    re.DOTALL,
)


def excess(text: str) -> tuple[str, int] | None:
    """Return what in a TOML text goes beyond the limits and at which offset, or None.

    One pass over the tokens, without parsing: `tomllib` needs seconds for a dotted key of thousands of parts,
    and runs out of stack on deep nesting.
    """
    depth = parts = items = 0
    for token in _TOKEN.finditer(text):
        mark = token.group()
        items += mark in "[{.=,"
        if items > MAX_ITEMS:
            return f"there are more than {MAX_ITEMS} keys and values", token.start()
        if mark == ".":
            parts += 1
            if parts >= MAX_DEPTH:
                return f"a dotted key has more than {MAX_DEPTH} parts", token.start()
        elif mark in "[{":
            depth, parts = depth + 1, 0
            if depth > MAX_DEPTH:
                return f"values are nested more than {MAX_DEPTH} deep", token.start()
        elif mark in "]}":
            depth, parts = max(depth - 1, 0), 0
        elif mark[0] in "=,\n":
            parts = 0
    return None


def depth_of(document: Any, limit: int = MAX_DEPTH) -> int:
    """Return how deep tables and lists are nested, counting no further than one beyond `limit`."""
    level, depth = [document], 0
    while level and depth <= limit:
        containers = [value for value in level if isinstance(value, (dict, list, tuple))]
        level = [
            item
            for container in containers
            for item in (container.values() if isinstance(container, dict) else container)
        ]
        depth += bool(containers)
        if not containers:
            break
    return depth


def not_numbers_in(table: Any, path: TomlPath = ()) -> Iterator[Problem]:
    """Yield a problem for each NaN. Infinities are left to the fields: a threshold may be one."""
    if isinstance(table, float) and math.isnan(table):
        yield Problem(path, "found nan, expected a number")
    elif isinstance(table, dict):
        for key, item in table.items():
            yield from not_numbers_in(item, (*path, key))
    elif isinstance(table, list):
        for index, item in enumerate(table):
            yield from not_numbers_in(item, (*path, index))


def plain(document: dict[str, Any], layer: Layer | None = None) -> dict[str, Any]:
    """Return a copy of tables, lists, text, numbers and booleans only.

    Dates become ISO text, paths text, tuples lists and configs tables. A key with None is left out, as TOML
    has no null.

    Args:
        document: What to copy.
        layer: Who says it, for places in messages.

    Raises:
        SpecError: A value has no counterpart in TOML, or the nesting is too deep (or endless).
    """
    if depth_of(document) > MAX_DEPTH:
        raise SpecError(f"tables and lists are nested more than {MAX_DEPTH} deep")
    try:
        result = _plain(document, ())
    except _NoCounterpartError as error:
        place = layer.place(error.path) if layer else None
        problem = Problem(error.path, str(error), places=(place,) if place else ())
        raise InvalidSpecError([problem], origin=layer.origin if layer else "the spec") from None
    assert isinstance(result, dict)
    return result


class _NoCounterpartError(Exception):
    def __init__(self, path: TomlPath, message: str) -> None:
        super().__init__(message)
        self.path = path


def _plain(value: Any, path: TomlPath) -> Any:
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(mode="json", exclude_none=True), path)
    if isinstance(value, dict):
        return {_key(key, path): _plain(item, (*path, str(key))) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item, (*path, index)) for index, item in enumerate(value)]
    if isinstance(value, (datetime.date, datetime.time)):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise _NoCounterpartError(path, "an integer beyond 64 bits")
    if isinstance(value, (bool, int, float, str)):
        return value
    raise _NoCounterpartError(path, f"TOML has no counterpart for {value!r} ({type(value).__name__})")


def _key(key: Any, path: TomlPath) -> str:
    if not isinstance(key, str):
        raise _NoCounterpartError(path, f"expected text as a key, found {key!r} ({type(key).__name__})")
    return key


_KEYS = re.compile(r"\((?:'[^']*'|\"[^\"]*\"|, ?)*\)")
_WHERE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


@dataclass(frozen=True)
class Document:
    """A spec file as it was read."""

    path: Path
    source: SourceText
    table: dict[str, Any]

    @property
    def text(self) -> str:
        """The whole file, without a byte order mark."""
        return self.source.text


def read_document(path: Path, *, via: str | None = None) -> Document:
    """Read and parse a spec file.

    Args:
        path: The file.
        via: The file and line that made this one take part, for messages.

    Raises:
        SpecError: The file is missing, no regular file, unreadable, larger than 1 MiB or not UTF-8; as
            `InvalidSpecError` with its place where it is not TOML or nested too deeply.
    """
    source = SourceText(str(path), _decode(_read(path), path), via=via)
    return Document(path, source, parse_toml(source))


def parse_toml(source: SourceText) -> dict[str, Any]:
    """Parse TOML text.

    Raises:
        InvalidSpecError: The text is no TOML, or nested too deeply.
    """
    found = excess(source.text)
    if found is not None:
        what, offset = found
        raise _refusal(source, what, source.place(offset, offset + 1))
    try:
        table = tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as error:
        raise _refusal(source, *_syntax_error(str(error), source)) from None
    except (ValueError, RecursionError) as error:
        raise _refusal(source, f"holds a value that cannot be read: {error}", source.first_line()) from None
    if depth_of(table) > MAX_DEPTH:
        raise _refusal(source, f"tables and lists are nested more than {MAX_DEPTH} deep", source.first_line())
    return table


def _refusal(source: SourceText, message: str, place: Place) -> InvalidSpecError:
    return InvalidSpecError([Problem((), message, places=(place,))], origin=source.origin)


def _syntax_error(message: str, source: SourceText) -> tuple[str, Place]:
    """Return what `tomllib` says, and where; the end of the document is the end of its last line with text."""
    where = _WHERE.search(message)
    start = len(source.text.rstrip())
    if where is not None and where[1] is not None:
        start = source.offset(int(where[1]), int(where[2]))
    length = source.text[start : start + 1] not in ("", "\r", "\n")
    reason = _in_words(_WHERE.sub("", message))
    end = " at the end" if where is not None and where[1] is None else ""
    return f"not valid TOML: {reason[:1].lower()}{reason[1:]}{end}", source.place(start, start + length)


def _in_words(reason: str) -> str:
    """Return a reason of `tomllib` in the words of TOML: it writes keys as Python does, and a line's end as `\\n`."""
    if reason == "Cannot overwrite a value":
        return "the key is set twice"
    if reason == r"Illegal character '\n'":
        return "the line ends inside a string"
    return _KEYS.sub(lambda keys: f"[{toml_path(ast.literal_eval(keys.group()))}]", reason)


def _read(path: Path) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise SpecError(f"{path} is a directory, expected a spec file", hint=_files_in(path))
        if not stat.S_ISREG(status.st_mode):
            raise SpecError(f"{path} is no regular file, expected a spec file")
        if status.st_size > MAX_BYTES:
            raise SpecError(f"{path} is too large for a spec: {status.st_size} bytes, at most {MAX_BYTES}")
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise SpecError(f"there is no spec file {visible(str(path))}", hint=f"paths start at {Path.cwd()}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SpecError(f"{visible(str(path))} cannot be read: {reason}") from error


def _decode(data: bytes, path: Path) -> str:
    """Return the text; a byte order mark, which some editors write, is no part of it."""
    if len(data) > MAX_BYTES:
        raise SpecError(f"{path} is too large for a spec: more than {MAX_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise SpecError(
            f"{path} is not UTF-8: byte 0x{byte:02x} at offset {_file_offset(data, error.start)}",
            hint="save the file as UTF-8",
        ) from error
    if "\0" in text:
        place = SourceText(str(path), text).place(text.index("\0"), text.index("\0") + 1)
        raise SpecError(f"{path} is no text file: NUL character at line {place.line}, column {place.column}")
    return text


def _file_offset(data: bytes, offset: int) -> int:
    """Return the offset in the file: the decoder counts from behind a byte order mark."""
    return offset + 3 if data.startswith(b"\xef\xbb\xbf") else offset


def _files_in(folder: Path) -> str | None:
    names = sorted(entry.name for entry in folder.glob("*.toml"))[:5]
    return f"it holds {', '.join(names)}" if names else None
