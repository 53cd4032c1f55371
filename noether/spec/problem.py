"""One thing that is wrong with a spec, and the error that shows all of them at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from noether.errors import SpecError

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Problem:
    """Something wrong at one place of the document.

    Attributes:
        path: Keys and indices from the root of the document.
        message: What was found and what was expected.
        hint: What to type or change.
        place: Where in which file the value stands, where that is known.
    """

    path: tuple[str | int, ...]
    message: str
    hint: str | None = None
    place: Any = None

    def __str__(self) -> str:
        head = f"{toml_path(self.path)}: {self.message}" if self.path else self.message
        return f"{head}\n  help: {self.hint}" if self.hint else head


class InvalidSpecError(SpecError):
    """A spec with one or more problems; the message shows all of them, sorted by path.

    Args:
        problems: What is wrong; at least one.
        origin: The file, or what else the spec is from.
    """

    def __init__(self, problems: Iterable[Problem], *, origin: str) -> None:
        self.problems = tuple(sorted(problems, key=_order))
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__("\n".join([*map(str, self.problems), f"{count} in {origin}"]))


def toml_path(path: Sequence[str | int]) -> str:
    """Return a path as TOML writes dotted keys, indices as numbers: `trainer.callbacks.1.every_n_epochs`."""
    return ".".join(str(part) if isinstance(part, int) or _BARE_KEY.fullmatch(part) else quoted(part) for part in path)


def quoted(text: str, limit: int = 60) -> str:
    """Return text in quotes for a message: cut to `limit`, control and direction characters escaped."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:limit])
    return f'"{shown}…"' if len(text) > limit else f'"{shown}"'


def _order(problem: Problem) -> list[tuple[int, int, str]]:
    return [(0, part, "") if isinstance(part, int) else (1, 0, part) for part in problem.path]
