"""A problem as text in the form of a compiler error: code, message, place, source line with carets, help."""

from __future__ import annotations

import unicodedata
from typing import Protocol

from noether.config.secrets import mask
from noether.spec.errors.words import toml_path, visible
from noether.spec.locate import Place, TomlPath

_CONTEXT = 40  # characters shown before and behind the marked part of a long line
_MARKED = 60  # characters shown of the marked part
_LINE = 120  # characters of a line that is shown whole
_TAB = "    "
_RED, _BLUE, _BOLD, _PLAIN = "\x1b[1;31m", "\x1b[1;34m", "\x1b[1m", "\x1b[0m"


class Shown(Protocol):
    """The parts of a problem that are shown."""

    @property
    def code(self) -> str:
        """Its stable name."""

    @property
    def path(self) -> TomlPath:
        """Keys and indices from the root of the document."""

    @property
    def message(self) -> str:
        """Found and expected."""

    @property
    def hint(self) -> str | None:
        """The help: text to type."""

    @property
    def places(self) -> tuple[Place, ...]:
        """The places of the problem, the main one first."""


def render(problem: Shown, origin: str, *, color: bool = False) -> str:
    """Return a problem as a block of text.

    Args:
        problem: The problem.
        origin: The file or name of the spec, for a problem without a place.
        color: Colour the text for a terminal.
    """
    gutter = _Gutter(problem.places, color=color)
    shown = visible(toml_path(problem.path))
    path = f"   [{shown[:_LINE]}{'…' if len(shown) > _LINE else ''}]" if problem.path else ""
    lines = [gutter.painted(_RED, f"error[{problem.code}]") + gutter.painted(_BOLD, f": {problem.message}")]
    if not problem.places and (problem.path or origin != "the spec"):
        lines.append(gutter.arrow(f"{visible(origin)}{path}"))
    for number, place in enumerate(problem.places):
        lines += gutter.excerpt(place, path if number == 0 else "", "-" if number else "^")
    if problem.hint:
        lines += [gutter.note(f"help: {line}") for line in problem.hint.split("\n")]
    return "\n".join(lines)


class _Gutter:
    """Left margin of a block, wide enough for its line numbers."""

    def __init__(self, places: tuple[Place, ...], *, color: bool) -> None:
        self._width = max((len(str(place.line)) for place in places if place.is_file), default=1)
        self._color = color

    def painted(self, paint: str, text: str) -> str:
        return f"{paint}{text}{_PLAIN}" if self._color else text

    def arrow(self, text: str) -> str:
        return " " * self._width + self.painted(_BLUE, "-->") + f" {text}"

    def note(self, text: str) -> str:
        return " " * (self._width + 1) + self.painted(_BLUE, "=") + f" {text}"

    def excerpt(self, place: Place, path: str, mark: str) -> list[str]:
        where = f"{place.origin}:{place.line}:{place.column}" if place.is_file else place.origin
        via = f", pulled in by {place.via}" if place.via else ""
        shown, carets = excerpt(place, mark)
        number = str(place.line) if place.is_file else ""
        return [
            self.arrow(f"{visible(where)}{path}{visible(via)}"),
            self._row(""),
            self._row(number, shown),
            self._row("", self.painted(_RED if mark == "^" else _BLUE, f"{carets} {place.label}".rstrip())),
        ]

    def _row(self, number: str, text: str = "") -> str:
        return f"{self.painted(_BLUE, f'{number:>{self._width}} |')} {text}".rstrip()


def excerpt(place: Place, mark: str = "^") -> tuple[str, str]:
    """Return the line of a place as a terminal shows it, and the marks below it.

    Only the first of several lines is shown; a long line is cut around the marked part.
    """
    text = place.text
    start = min(place.column - 1, len(text))
    end = len(text) if place.end_line > place.line else min(place.end_column - 1, len(text))
    goes_on = "…" if place.end_line > place.line else ""
    before, marked, behind = text[:start], text[start:end], text[end:]
    if len(text) > _LINE:
        if len(before) > _CONTEXT:
            before = "…" + before[-_CONTEXT:]
        if len(marked) > _MARKED:
            marked, behind, goes_on = marked[:_MARKED] + "…", "", ""
        if len(behind) > _CONTEXT:
            behind = behind[:_CONTEXT] + "…"
    before, marked, behind = (_shown(part) for part in (before, marked, behind))
    shown = f"{before}{marked}{behind}{goes_on}".rstrip()
    return shown, " " * _width(before) + mark * max(_width(marked), 1) + goes_on


def _shown(text: str) -> str:
    return visible(mask(text).replace("\t", _TAB))


def _width(text: str) -> int:
    """Return the number of terminal columns that text takes."""
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
