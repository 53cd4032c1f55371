"""Read a TOML file as a document: its text and its table, or one clear error."""

from __future__ import annotations

import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noether.errors import SpecError
from noether.spec.limits import MAX_BYTES, MAX_DEPTH, depth_of, excess


@dataclass(frozen=True)
class Document:
    """A spec file as it was read."""

    path: Path
    text: str
    table: dict[str, Any]


def read_document(path: Path) -> Document:
    """Read and parse a spec file.

    Raises:
        SpecError: The file is missing, no regular file, unreadable, larger than 1 MiB, not UTF-8 or not TOML,
            or it is nested too deeply.
    """
    text = _decode(_read(path), path)
    return Document(path, text, parse_toml(text, str(path)))


def parse_toml(text: str, origin: str) -> dict[str, Any]:
    """Parse TOML text; `origin` says in errors where it is from.

    Raises:
        SpecError: The text is no TOML, or nested too deeply.
    """
    found = excess(text)
    if found is not None:
        what, offset = found
        raise SpecError(f"{origin}: {what} (at {_position(text, offset)})")
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{origin} is not valid TOML: {error}") from error
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{origin} holds a value that cannot be read: {error}") from error
    if depth_of(table) > MAX_DEPTH:
        raise SpecError(f"{origin}: tables and lists are nested more than {MAX_DEPTH} deep")
    return table


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
        raise SpecError(f"there is no spec file {path}", hint=f"paths start at {Path.cwd()}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SpecError(f"{path} cannot be read: {reason}") from error


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
        raise SpecError(f"{path} is no text file: NUL character at {_position(text, text.index(chr(0)))}")
    return text


def _file_offset(data: bytes, offset: int) -> int:
    """Return the offset in the file: the decoder counts from behind a byte order mark."""
    return offset + 3 if data.startswith(b"\xef\xbb\xbf") else offset


def _position(text: str, offset: int) -> str:
    line_start = text.rfind("\n", 0, offset) + 1
    return f"line {text.count(chr(10), 0, offset) + 1}, column {offset - line_start + 1}"


def _files_in(folder: Path) -> str | None:
    names = sorted(entry.name for entry in folder.glob("*.toml"))[:5]
    return f"it holds {', '.join(names)}" if names else None
