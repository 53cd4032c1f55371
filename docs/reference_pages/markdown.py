"""Tables, docstrings and field types as Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

import noether
from noether.spec.explain import bounds_of, default_of, example_of, type_of, unit_of

_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):", re.MULTILINE)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; line breaks and bars inside of cells are made harmless."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def prose(documented: Any) -> str:
    """Return a docstring up to its first section, as it is: docstrings are written in Markdown."""
    return _SECTION.split(inspect.getdoc(documented) or "")[0].strip()


def summary(documented: Any) -> str:
    """Return the first paragraph of a docstring."""
    return prose(documented).partition("\n\n")[0]


def meaning(name: str, value: Any) -> str:
    """Return the meaning of a public name in one paragraph.

    Types and markers, which hold no docstring, have a string below their assignment or the help of an option.

    Raises:
        LookupError: if there is neither.
    """
    if inspect.isclass(value) or inspect.isfunction(value):
        return summary(value)
    for mark in getattr(value, "__metadata__", ()):
        return str(mark.help)
    below = re.compile(rf'^{name}\b[^\n]*=(?:(?!^\w|""").)*?^"""(.*?)"""', re.MULTILINE | re.DOTALL)
    for path in Path(noether.__file__).parent.rglob("*.py"):
        if found := below.search(path.read_text("utf-8")):
            return found[1]
    raise LookupError(f"{name} has no docstring: put one below its assignment")


def fields_table(fields: dict[str, FieldInfo]) -> str:
    """Return a table of the fields of a config: name, type, default, example, meaning, and unit if any has one."""
    units = {name: unit_of(name, field) for name, field in fields.items()}
    columns = {
        "field": [_code(name) for name in fields],
        "type": [field_type(field) for field in fields.values()],
        "unit": [unit or "" for unit in units.values()],
        "default": [_default(field) for field in fields.values()],
        "example": [_code(example_of(field)) for field in fields.values()],
        "meaning": [field.description or "" for field in fields.values()],
    }
    if not any(columns["unit"]):
        del columns["unit"]
    return table(list(columns), zip(*columns.values(), strict=True))


def field_type(field: FieldInfo) -> str:
    """Return the type of a field, constants as code and roles in italics, with the bounds of numbers."""
    words = type_of(field, literal=_code, component=lambda role: f"*{role}*")
    return ", ".join(filter(None, (words, bounds_of(field))))


def _default(field: FieldInfo) -> str:
    words = default_of(field)
    return words if words in ("required", "unset") else _code(words)


def _code(text: str | None) -> str:
    return f"`{text}`" if text else ""
