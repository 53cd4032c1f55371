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
from noether.spec.errors.problem import InvalidSpecError, Problem, problem_at
from noether.spec.errors.words import toml_path, visible
from noether.spec.locate import Place, SourceText, TomlPath
from noether.spec.read.layers import Layer

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_ITEMS = 10_000
MAX_FILES = 32
_TOO_DEEP = f"nested too deeply: found more than {MAX_DEPTH} levels of tables and lists, expected at most that"

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
    """Return the limit that a TOML text exceeds and the offset at which it does, or None.

    One pass over the tokens, without parsing: `tomllib` needs seconds for a dotted key of thousands of parts,
    and runs out of stack on deep nesting.
    """
    parts = items = 0
    open_brackets: list[str] = []
    in_value = False  # there a dot belongs to a number, not to a key
    for token in _TOKEN.finditer(text):
        mark = token.group()
        if mark == "." and in_value:
            continue
        items += mark in "[{.=,"
        parts = parts + 1 if mark == "." else 0 if mark[0] in "[]{}=,\n" else parts
        if mark in "[{":
            open_brackets.append("array" if mark == "[" and in_value else mark)
        elif mark in "]}":
            del open_brackets[-1:]
        in_value = _in_value(mark, open_brackets, in_value)
        if found := _exceeded(items, parts, len(open_brackets)):
            return found, token.start()
    return None


def _in_value(mark: str, open_brackets: list[str], before: bool) -> bool:
    """Return True if a value may follow a token, False if a key may."""
    if mark in "[{,":
        return open_brackets[-1:] == ["array"]
    if mark == "=":
        return True
    return before and mark not in "]}" and (mark[0] != "\n" or bool(open_brackets))


def _exceeded(items: int, parts: int, depth: int) -> str | None:
    if items > MAX_ITEMS:
        return f"too many keys and values: found more than {MAX_ITEMS}, expected at most that"
    if parts >= MAX_DEPTH:
        return f"dotted key too long: found more than {MAX_DEPTH} parts, expected at most that"
    return _TOO_DEEP if depth > MAX_DEPTH else None


def depth_of(document: Any) -> int:
    """Return the depth of nested tables and lists, counted to at most one beyond `MAX_DEPTH`."""
    level, depth = [document], 0
    while level and depth <= MAX_DEPTH:
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
    """Yield a problem for each NaN. Infinities are left to the fields, since a threshold may be infinite."""
    if isinstance(table, float) and math.isnan(table):
        yield Problem("not-a-number", path, "found nan, expected a number")
    elif isinstance(table, dict):
        for key, item in table.items():
            yield from not_numbers_in(item, (*path, key))
    elif isinstance(table, list):
        for index, item in enumerate(table):
            yield from not_numbers_in(item, (*path, index))


def plain(document: dict[str, Any], layer: Layer | None = None) -> dict[str, Any]:
    """Return a copy of a document that holds only tables, lists, text, numbers and booleans.

    Dates become ISO text, paths text, tuples lists and configs tables. A key with None is left out, since TOML
    has no null.

    Args:
        document: The table to copy.
        layer: Its layer, for places in messages.

    Raises:
        SpecError: if a value has no counterpart in TOML, or the nesting is too deep or endless.
    """
    if depth_of(document) > MAX_DEPTH:
        raise SpecError(_TOO_DEEP, code="too-large")
    try:
        result = _plain(document, ())
    except _NoCounterpartError as error:
        place = layer.place(error.path) if layer else None
        problem = problem_at(place, "unsupported-value", error.path, str(error), None)
        raise InvalidSpecError([problem], origin=layer.origin if layer else "the spec") from None
    assert isinstance(result, dict)
    return result


class _NoCounterpartError(Exception):
    """A value that TOML cannot express."""

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
        raise _NoCounterpartError(path, f"integer too large: found {_brief(value)}, expected one of 64 bits")
    if isinstance(value, (bool, int, float, str)):
        return value
    raise _NoCounterpartError(path, f"found {value!r} ({type(value).__name__}), expected a value that TOML has")


def _brief(value: int) -> str:
    return str(value) if value.bit_length() < _LONGEST_INTEGER else f"one of {value.bit_length()} bits"


def _key(key: Any, path: TomlPath) -> str:
    if not isinstance(key, str):
        raise _NoCounterpartError(path, f"found the key {key!r} ({type(key).__name__}), expected a string")
    return key


_LONGEST_INTEGER = 128  # bits of an integer that a message shows
_KEYS = re.compile(r"\((?:'[^']*'|\"[^\"]*\"|, ?)*\)")
_WHERE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


@dataclass(frozen=True)
class Document:
    """A spec file: its text and its table."""

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
        via: The file and line that extend it, for messages.

    Raises:
        SpecError: if the file is missing, not a regular file, unreadable, larger than 1 MiB or not UTF-8; as
            `InvalidSpecError` with its place if it is not TOML or nested too deeply.
    """
    source = SourceText(str(path), _decode(_read(path), path), via=via)
    return Document(path, source, parse_toml(source))


def parse_toml(source: SourceText) -> dict[str, Any]:
    """Parse TOML text.

    Raises:
        InvalidSpecError: if the text is not TOML, or exceeds a limit.
    """
    found = excess(source.text)
    if found is not None:
        what, offset = found
        raise _refusal(source, "too-large", what, source.place(offset, offset + 1))
    try:
        table = tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as error:
        raise _refusal(source, "invalid-toml", *_syntax_error(str(error), source)) from None
    except (ValueError, RecursionError) as error:
        message = f"a value cannot be read: {error}"
        raise _refusal(source, "invalid-toml", message, source.first_line()) from None
    if depth_of(table) > MAX_DEPTH:
        raise _refusal(source, "too-large", _TOO_DEEP, source.first_line())
    return table


def _refusal(source: SourceText, code: str, message: str, place: Place) -> InvalidSpecError:
    return InvalidSpecError([Problem(code, (), message, places=(place,))], origin=source.origin)


def _syntax_error(message: str, source: SourceText) -> tuple[str, Place]:
    """Return the message of `tomllib` and its place; the document ends with its last line that has text."""
    where = _WHERE.search(message)
    start = len(source.text.rstrip())
    if where is not None and where[1] is not None:
        start = source.offset(int(where[1]), int(where[2]))
    length = source.text[start : start + 1] not in ("", "\r", "\n")
    reason = _in_words(_WHERE.sub("", message))
    end = " at the end" if where is not None and where[1] is None else ""
    return f"not valid TOML: {reason[:1].lower()}{reason[1:]}{end}", source.place(start, start + length)


def _in_words(reason: str) -> str:
    """Return a reason of `tomllib` in the words of TOML: `tomllib` writes keys and line ends as Python does."""
    if reason == "Cannot overwrite a value":
        return "the key is set twice"
    if reason == r"Illegal character '\n'":
        return "the line ends inside a string"
    return _KEYS.sub(lambda keys: f"[{toml_path(ast.literal_eval(keys.group()))}]", reason)


def _read(path: Path) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise _unreadable(f"{path} is a directory, expected a spec file", _files_in(path))
        if not stat.S_ISREG(status.st_mode):
            raise _unreadable(f"{path} is not a regular file, expected a spec file")
        if status.st_size > MAX_BYTES:
            raise _too_large(path, str(status.st_size))
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        hint = f"paths are relative to {Path.cwd()}"
        raise _unreadable(f"spec file not found: {visible(str(path))}", hint) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise _unreadable(f"{visible(str(path))} cannot be read: {reason}") from error


def _decode(data: bytes, path: Path) -> str:
    """Return the text without a byte order mark, which some editors write."""
    if len(data) > MAX_BYTES:
        raise _too_large(path, f"more than {MAX_BYTES}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        message = f"{path} is not UTF-8: found byte 0x{byte:02x} at offset {_file_offset(data, error.start)}"
        raise _unreadable(message, "save the file as UTF-8") from error
    if "\0" in text:
        place = SourceText(str(path), text).place(text.index("\0"), text.index("\0") + 1)
        raise _unreadable(f"{path} is not text: found a NUL character at line {place.line}, column {place.column}")
    return text


def _unreadable(message: str, hint: str | None = None) -> SpecError:
    return SpecError(message, hint=hint, code="unreadable-file")


def _too_large(path: Path, found: str) -> SpecError:
    return SpecError(f"{path} is too large: found {found} bytes, expected at most {MAX_BYTES}", code="too-large")


def _file_offset(data: bytes, offset: int) -> int:
    """Return the offset in the file: the decoder does not count a byte order mark."""
    return offset + 3 if data.startswith(b"\xef\xbb\xbf") else offset


def _files_in(folder: Path) -> str | None:
    names = sorted(entry.name for entry in folder.glob("*.toml"))[:5]
    return f"it holds {', '.join(names)}" if names else None
