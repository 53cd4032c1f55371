"""Docstrings for Sphinx: their Markdown as reStructuredText, and the fields of configs as attributes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from pydantic import BaseModel

from noether.cli.package import PUBLIC, public_names

_LINK = re.compile(r"\[([^\]]+)\]\((https?://[^)\s]+)\)")
_FENCE = re.compile(r"( *)```(\w*)$")
_ITEM = re.compile(r" *(-|\d+\.) ")


def import_names() -> None:
    """Import all public names; autodoc itself sets `typing.TYPE_CHECKING` to do so, which breaks pydantic's models."""
    for module in PUBLIC:
        for name in public_names(module):
            getattr(import_module(module), name)


def translate(app: Any, what: str, name: str, documented: Any, options: Any, lines: list[str]) -> None:
    """Replace the lines of a docstring, before its Google sections are read."""
    lines[:] = ["", *_as_rst(lines)] if what == "property" else list(_as_rst(lines))  # "Type: text" is for attributes
    if isinstance(documented, type) and issubclass(documented, BaseModel):
        lines += list(_fields(documented))


def hide_field(app: Any, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of a named tuple, which the docstring of its class has."""
    return True if str(getattr(member, "__doc__", "")).startswith("Alias for field number") else None


def shorten(app: Any, what: str, name: str, documented: Any, options: Any, *signature: Any) -> Any:
    """Leave out the signature of a config, whose fields follow, and the modules of types in another one."""
    if isinstance(documented, type) and issubclass(documented, BaseModel):
        return ("", None)
    return tuple(part and re.sub(r"~[\w.]+\.", "", part) for part in signature)


def _as_rst(lines: list[str]) -> Iterator[str]:
    fence: str | None = None
    before = ""
    for line in lines:
        found = _FENCE.fullmatch(line)
        if found and fence is None:
            fence = found[1]
            yield from ("", f"{fence}.. code-block:: {found[2] or 'text'}", "")
        elif fence is not None:
            inside = not found
            yield f"   {line}" if inside else ""
            fence = fence if inside else None
        else:
            if _ITEM.match(line) and before.strip() and not _ITEM.match(before) and not before.startswith(" "):
                yield ""
            yield _LINK.sub(r"`\1 <\2>`__", line).replace("\\", "\\\\")
        before = line


def _fields(config: type[BaseModel]) -> Iterator[str]:
    own = {name: field for name, field in config.model_fields.items() if name in config.__annotations__}
    if own:
        yield from ("", "Attributes:")
        yield from (f"    {name}: {' '.join((field.description or '').split())}" for name, field in own.items())
