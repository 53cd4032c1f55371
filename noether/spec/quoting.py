"""How messages write what a spec says: paths as TOML does, text in quotes that can do no harm."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice

from noether.config.secrets import mask

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_LISTED = 40


def toml_path(path: Sequence[str | int]) -> str:
    """Return a path as TOML writes dotted keys, indices as numbers: `trainer.callbacks.1.every_n_epochs`."""
    return ".".join(str(part) if isinstance(part, int) or _BARE_KEY.fullmatch(part) else quoted(part) for part in path)


def quoted(text: str, limit: int = 60) -> str:
    """Return text in quotes for a message: cut to `limit`, secrets masked, control and direction characters escaped."""
    text = mask(text)
    shown = visible(text[:limit])
    return f'"{shown}…"' if len(text) > limit else f'"{shown}"'


def visible(text: str) -> str:
    """Return text with control and direction characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def listed(names: Iterable[str]) -> str:
    """Return names for a message, with commas between them; of very many, the first."""
    first = list(islice(names, _LISTED + 1))
    return ", ".join([*first[:_LISTED], "…"] if len(first) > _LISTED else first)
