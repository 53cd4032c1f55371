"""A problem of a spec, and the error that shows all problems of a spec at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from noether.config.secrets import mask
from noether.errors import SpecError
from noether.spec.errors.place import Place
from noether.spec.errors.render import render
from noether.spec.errors.words import visible


@dataclass(frozen=True)
class Problem:
    """Something wrong at one place of the document.

    Attributes:
        path: Keys and indices from the root of the document.
        message: What was found and what was expected.
        hint: What to type or change.
        places: Where that is written, the main place first; filled in by `noether.spec.read.layering.located`.
        at: Paths of what to point at where it is not `path` itself, as of a problem between several values: the main
            one first.
        on_key: Whether to point at keys rather than values.
        labels: What the first and the other ones of `at` are; without them, values that do not fit together.
    """

    path: tuple[str | int, ...]
    message: str
    hint: str | None = None
    places: tuple[Place, ...] = ()
    at: tuple[tuple[str | int, ...], ...] = ()
    on_key: bool = False
    labels: tuple[str, str] | None = None


class InvalidSpecError(SpecError):
    """A spec with one or more problems; the message shows all of them, sorted by file and position.

    Args:
        problems: What is wrong; at least one.
        origin: The file, or what else the spec is from.
        more: How many further problems there are that nobody has looked at.
    """

    def __init__(self, problems: Iterable[Problem], *, origin: str, more: int = 0) -> None:
        masked = (
            replace(problem, message=_fit(problem.message), hint=_fit(problem.hint) if problem.hint else None)
            for problem in problems
        )
        self.problems = tuple(sorted(masked, key=_order))
        self.origin = origin
        self.more = more
        super().__init__(self.rendered())

    def rendered(self, *, color: bool = False) -> str:
        """Return all problems as text, with a count at the end."""
        number = len(self.problems) + self.more
        count = f"{number} problem{'s' * (number != 1)} in {visible(self.origin)}"
        if self.more:
            count += f", of which these are {len(self.problems)}"
        blocks = [render(problem, self.origin, color=color) for problem in self.problems]
        return "\n\n".join([*blocks, count])


def _fit(text: str) -> str:
    """Return text that a terminal shows as it is, without secrets, cut where it repeats what a file says at length."""
    text = mask(text)
    cut = text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
    return "\n".join(map(visible, cut.split("\n")))


_LONGEST = 5000
_Order: TypeAlias = tuple[bool, bool, str, int, str, int, int, list[tuple[int, int, str]]]


def _order(problem: Problem) -> _Order:
    """The file that was asked for comes first, then the files that it extends, then arguments, then the rest."""
    path = [(0, part, "") if isinstance(part, int) else (1, 0, part) for part in problem.path]
    if not problem.places:
        return True, True, "", 0, "", 0, 0, path
    place = problem.places[0]
    length = 0 if place.is_file else len(place.origin)  # argument 2 comes before argument 10
    return False, not place.is_file, place.via or "", length, place.origin, place.line, place.column, path


class Finding(NamedTuple):
    """Something that looks wrong.

    Attributes:
        problem: What, and where.
        certain: Whether it is wrong; else somebody who takes part does not say what it does, and it may be right.
    """

    problem: Problem
    certain: bool = True
