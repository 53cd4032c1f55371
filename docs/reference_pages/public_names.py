"""The page of public names, from the list that `noether plugins check` reads."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

from noether.cli.package import PUBLIC, public_names
from reference_pages.markdown import meaning, table

_INTRODUCTION = """
# Public names

The names of Noether that a plugin may import; the first module that has a name is the one to take it from. Every other
module or name may change with any version, and `noether plugins check` reports its import.
"""


def page() -> str:
    """Return the page."""
    return "\n\n".join([_INTRODUCTION.strip(), *_sections()])


def _sections() -> Iterator[str]:
    first: dict[str, str] = {}
    for module in PUBLIC:
        found = import_module(module)
        names = [name for name in public_names(module) if not name.startswith("_")]
        rows = [(f"`{name}`", meaning(name, getattr(found, name))) for name in names if name not in first]
        again = [name for name in names if name in first]
        homes = sorted({f"`{first[name]}`" for name in again})
        also = [f"Also, of {', '.join(homes)}: {', '.join(f'`{name}`' for name in again)}."] if again else []
        yield "\n\n".join([f"## {module}", *([table(["name", "is"], rows)] if rows else []), *also])
        first |= dict.fromkeys(set(names) - set(first), module)
