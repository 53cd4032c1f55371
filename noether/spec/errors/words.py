"""Words and notation of messages: TOML literals and paths, quoted text, descriptions of values."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from noether.config.secrets import mask
from noether.kernel.names import did_you_mean

TYPES: dict[Any, str] = {
    int: "integer",
    float: "number",
    str: "string",
    bool: "true or false",
    list: "list",
    dict: "table",
}
"""Names of the types of a TOML value, in messages and in the documentation of fields."""
BOUNDS = {"ge": "at least", "gt": "greater than", "le": "at most", "lt": "below"}
"""Words for the bounds of a number, by pydantic's name of the bound."""
_CONTROL = re.compile("[\x7f-\x9f]")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_MOST = 60  # characters of a quotation


def toml_literal(value: Any) -> str:
    """Return a value as TOML writes it behind `key =`, in one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return toml_string(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, int):
        return str(value)
    from pydantic_core import to_jsonable_python  # most commands show no value, and start without it

    if isinstance(value, Mapping):
        given = {str(to_jsonable_python(key)): item for key, item in value.items() if item is not None}
        items = ", ".join(f"{toml_key(key)} = {toml_literal(item)}" for key, item in given.items())
        return f"{{ {items} }}" if items else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml_literal, value))}]"
    if isinstance(value, (set, frozenset)):
        return f"[{', '.join(sorted(map(toml_literal, value)))}]"
    plain = to_jsonable_python(value, fallback=str)  # a date, a path, an enum, a dataclass
    return "unset" if plain is None else toml_literal(plain)


def toml_string(text: str) -> str:
    """Return text in quotes. JSON has the same escapes as TOML, which escapes DEL too; terminals obey 0x80 to 0x9f."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))


def toml_key(key: str) -> str:
    """Return a key, in quotes if it needs them."""
    return key if _BARE_KEY.fullmatch(key) else toml_string(key)


def _number(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")


_LISTED = 40


def toml_path(path: Sequence[str | int]) -> str:
    """Return a path as TOML writes dotted keys, indices as numbers: `trainer.callbacks.1.every_n_epochs`."""
    return ".".join(str(part) if isinstance(part, int) or _BARE_KEY.fullmatch(part) else quoted(part) for part in path)


def quoted(text: str) -> str:
    """Return text in quotes for a message: cut, secrets masked, control and direction characters escaped."""
    text = mask(text)
    shown = visible(text[:_MOST])
    return f'"{shown}…"' if len(text) > _MOST else f'"{shown}"'


def visible(text: str) -> str:
    """Return text with control and direction characters escaped."""
    if text.isprintable():  # nearly always: a run passes every line that it prints through here
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def visible_lines(text: str) -> str:
    """Return text of several lines with control and direction characters escaped; line ends and tabs stay."""
    return "\n".join("\t".join(map(visible, line.split("\t"))) for line in text.split("\n"))


def counted(number: float, unit: str, plural: str = "s") -> str:
    """Return a number with its unit, singular or plural: `1 update`, `2.5 epochs`."""
    text = f"{number:,.2f}".rstrip("0").rstrip(".") if isinstance(number, float) else f"{number:,}"
    return f"{text} {unit}{'' if text == '1' else plural}"


def duration_in_words(seconds: float) -> str:
    """Return a duration with its two largest units: `3.2 s`, `1 d 4 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join([f"{value} {unit}" for value, unit in parts if value][:2])


def in_columns(lines: Sequence[Sequence[str]], ends_right: Sequence[bool]) -> list[str]:
    """Return lines of cells in columns, never wrapped or cut; those of `ends_right` end at the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [str.rjust if ends else str.ljust for ends in ends_right]
    return [
        "  ".join(align(cell, width) for align, cell, width in zip(aligned, line, widths, strict=True)).rstrip()
        for line in lines
    ]


def listed(names: Iterable[str]) -> str:
    """Return names with commas between them; of more than 40 the first 40."""
    first = list(islice(names, _LISTED + 1))
    return ", ".join([*first[:_LISTED], "…"] if len(first) > _LISTED else first)


def described(value: Any) -> str:
    """Return a value in words, for `found …` in messages: `the string "yes"`, `the integer 3`, `a table`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the {TYPES[str]} {quoted(value)}"
    if isinstance(value, (int, float)):
        return f"the {TYPES[type(value)]} {value}"
    if isinstance(value, (dict, list, tuple)):
        return f"a {TYPES[dict if isinstance(value, dict) else list]}"
    return type(value).__name__


def suggestion(name: str, candidates: Iterable[str]) -> str:
    """Return `". Did you mean 'x'?"` to end a message with, or an empty string."""
    guess = did_you_mean(name, candidates)
    return f".{guess}" if guess else ""
