"""`-s path=value`: what one override says, before it meets a document."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import Any

from noether.errors import SpecError
from noether.spec.document import parse_toml
from noether.spec.problem import quoted

_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'""")
_UP_TO_EQUALS = re.compile(r"""((?:"(?:[^"\\]|\\.)*+"|'[^']*+'|\[[^\]]*+\]|[^"'\[=])*+)=""", re.DOTALL)
_ITEM = re.compile(r"\[([^\[\]]*)\]")
_BEGINS_LIKE_TOML = re.compile(r"""["'\[{0-9+-]|(?:true|false|inf|nan)\b""")


@dataclass(frozen=True)
class ItemId:
    """The part of a path that picks an item of an array of tables by its id: `callbacks[ema]`."""

    id: str


Part = str | ItemId


@dataclass(frozen=True)
class Override:
    """One value for one place of the document.

    Attributes:
        text: The argument as it was given, for messages.
        path: Keys and item ids from the root of the document; an index is a key of digits.
        value: The value; None removes what is there.
    """

    text: str
    path: tuple[Part, ...]
    value: Any


def parse_override(text: str) -> Override:
    """Read an argument of `-s`.

    The value is TOML; a bare word is a string.

    Raises:
        SpecError: There is no `=`, the path is malformed, or the value begins like TOML and is none.
    """
    path_text, value_text = split_assignment(text)
    return Override(text, parse_path(path_text, text), _parse_value(value_text, text))


def split_assignment(text: str) -> tuple[str, str]:
    """Split at the first `=` outside quotes and brackets.

    Raises:
        SpecError: There is none.
    """
    path = _UP_TO_EQUALS.match(text)
    if path is None:
        raise SpecError(f"override {quoted(text)}: expected path=value", hint="for example -s trainer.max_epochs=5")
    return path.group(1).strip(), text[path.end() :].strip()


def parse_path(path: str, text: str) -> tuple[Part, ...]:
    """Read a dotted path whose keys may be quoted and may be followed by `[id]`.

    Args:
        path: The path.
        text: The whole argument, for messages.

    Raises:
        SpecError: The path is malformed.
    """
    parts: list[Part] = []
    position = 0
    while True:
        key = _KEY.match(path, position)
        if key is None:
            raise _malformed(path, position, text)
        parts.append(_unquoted(key.group(), text))
        position = key.end()
        if item := _ITEM.match(path, position):
            parts.append(ItemId(item.group(1).strip().strip("\"'")))
            position = item.end()
        if position == len(path):
            return tuple(parts)
        if path[position] != ".":
            raise _malformed(path, position, text)
        position += 1


def _parse_value(value: str, text: str) -> Any:
    if not value:
        raise SpecError(f"override {quoted(text)}: no value", hint='an empty string is written path=""')
    try:
        table = parse_toml(f"value = {value}", "the value")
        if table.keys() == {"value"}:
            return table["value"]
        reason = "it holds more than one value"
    except SpecError as error:
        reason = error.message
        if not _BEGINS_LIKE_TOML.match(value) and "\n" not in value:
            return value
    raise SpecError(f"override {quoted(text)}: {reason}", hint="quote a string: -s 'path=\"value\"'")


def _unquoted(key: str, text: str) -> str:
    """Return a key as TOML reads it."""
    try:
        (name,) = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"override {quoted(text)}: {key} is no key: {error}") from error
    return name


def _malformed(path: str, position: int, text: str) -> SpecError:
    found = f"found {quoted(path[position])}" if position < len(path) else "it ends"
    return SpecError(
        f"override {quoted(text)}: expected a key at character {position + 1} of the path, {found}",
        hint="a path is written trainer.callbacks[ema].every_n_epochs; quote keys with other characters",
    )
