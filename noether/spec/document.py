"""Read a TOML file as a document: its text and its table, or one clear error."""

from __future__ import annotations

import ast
import re
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noether.errors import SpecError
from noether.spec.limits import MAX_BYTES, MAX_DEPTH, depth_of, excess
from noether.spec.place import Place, SourceText
from noether.spec.problem import InvalidSpecError, Problem, toml_path
from noether.spec.quoting import visible

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
