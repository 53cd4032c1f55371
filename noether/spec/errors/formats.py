"""Problems for programs: JSON, and annotations that GitHub shows on a pull request."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from noether.config.secrets import mask, withheld
from noether.errors import NoetherError
from noether.spec.errors.codes import CODES
from noether.spec.errors.problem import InvalidSpecError, Problem
from noether.spec.errors.words import toml_path, visible
from noether.spec.locate import Place


def problems_in(error: NoetherError) -> tuple[Problem, ...]:
    """Return the problems of an error; an error without places in a spec is one problem without a path."""
    if isinstance(error, InvalidSpecError):
        return error.problems
    code = error.code if error.code in CODES else "failed"
    return (Problem(code or "failed", (), withheld(error.message), withheld(error.hint) if error.hint else None),)


def as_json(problems: Iterable[Problem]) -> str:
    """Return a JSON list with one object per problem."""
    return json.dumps([_object(problem) for problem in problems], indent=2, ensure_ascii=False)


def as_github(problems: Iterable[Problem]) -> str:
    """Return one workflow command `::error …` per problem, each in one line."""
    return "\n".join(_command(problem) for problem in problems)


def _object(problem: Problem) -> dict[str, Any]:
    return {
        "code": problem.code,
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
    where = f"file={_property(place.origin)},line={place.line},col={place.column}," if place else ""
    return f"::error {where}title={problem.code}::{_data(text)}"


def _in_words(place: Place) -> str:
    """Return a further place of a problem as text, since an annotation has only one place."""
    if place.is_file:
        return f"{place.origin}:{place.line}:{place.column}"
    return f"{place.origin}: {visible(mask(place.text))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
