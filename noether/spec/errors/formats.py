"""Problems for programs: as JSON, and as the annotations that GitHub shows on a pull request."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

from noether.config.secrets import mask
from noether.errors import NoetherError
from noether.spec.errors.place import Place
from noether.spec.errors.problem import InvalidSpecError, Problem
from noether.spec.errors.words import toml_path, visible

Format: TypeAlias = Literal["text", "json", "github"]


def problems_in(error: NoetherError) -> tuple[Problem, ...]:
    """Return the problems that an error tells of; one that is not about a place of a spec is one without a path."""
    if isinstance(error, InvalidSpecError):
        return error.problems
    return (Problem((), mask(error.message), mask(error.hint) if error.hint else None),)


def as_json(problems: Iterable[Problem]) -> str:
    """Return a JSON list with an object a problem."""
    return json.dumps([_object(problem) for problem in problems], indent=2, ensure_ascii=False)


def as_github(problems: Iterable[Problem]) -> str:
    """Return a workflow command `::error …` a problem, a line each."""
    return "\n".join(_command(problem) for problem in problems)


def _object(problem: Problem) -> dict[str, Any]:
    return {
        "path": toml_path(problem.path),
        "message": problem.message,
        "hint": problem.hint,
        "places": [_place(place) for place in problem.places],
    }


def _place(place: Place) -> dict[str, Any]:
    return {
        "file": place.origin,
        "line": place.line,
        "column": place.column,
        "endLine": place.end_line,
        "endColumn": place.end_column,
    }


def _command(problem: Problem) -> str:
    head = f"{toml_path(problem.path)}: " if problem.path else ""
    place = next((place for place in problem.places if place.is_file), None)
    others = [f"{other.label or 'also'}: {_in_words(other)}" for other in problem.places if other is not place]
    help_lines = [f"help: {problem.hint}"] if problem.hint else []
    text = "\n".join([head + problem.message, *(others if place else ()), *help_lines])
    where = f" file={_property(place.origin)},line={place.line},col={place.column}" if place else ""
    return f"::error{where}::{_data(text)}"


def _in_words(place: Place) -> str:
    """Return where something else is that belongs to a problem: an annotation has one place only."""
    if place.is_file:
        return f"{place.origin}:{place.line}:{place.column}"
    return f"{place.origin}: {visible(mask(place.text))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
