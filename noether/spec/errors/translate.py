"""Turn what pydantic says about a document into plain words: what was found, what was expected."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from noether.kernel.names import nearest
from noether.spec.describe.fields import class_at, item_at
from noether.spec.errors.misplaced import home_of
from noether.spec.errors.problem import Problem
from noether.spec.errors.words import described, quoted, toml_path
from noether.spec.read.document import MAX_PROBLEMS

_Path = tuple[str | int, ...]

_EXPECTED: dict[str, str | Callable[[dict[str, Any]], str]] = {
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "string_type": "a string",
    "path_type": "a path",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "component_type": "a table with a kind, or the kind alone",
    "finite_number": "a finite number",
    "none_required": "nothing",
    "literal_error": lambda context: _one_of(context["expected"]),
    "enum": lambda context: _one_of(context["expected"]),
    "greater_than": lambda context: f"a number greater than {context['gt']:g}",
    "greater_than_equal": lambda context: f"at least {context['ge']:g}",
    "less_than": lambda context: f"a number below {context['lt']:g}",
    "less_than_equal": lambda context: f"at most {context['le']:g}",
    "multiple_of": lambda context: f"a multiple of {context['multiple_of']:g}",
    "string_pattern_mismatch": lambda context: f"text that matches {context['pattern']}",
    "string_too_short": lambda context: f"at least {context['min_length']} characters",
    "string_too_long": lambda context: f"at most {context['max_length']} characters",
    "too_short": lambda context: f"at least {context['min_length']} items",
    "too_long": lambda context: f"at most {context['max_length']} items",
}


def problems_of(error: ValidationError, document: dict[str, Any], root: type[BaseModel]) -> tuple[list[Problem], int]:
    """Return one problem for each place that a validation error speaks of, and how many were too many to look at.

    Where a value fits no member of a union, pydantic reports each member; here they are one problem.
    """
    by_path: dict[_Path, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        by_path.setdefault(_document_path(details, document), []).append(details)
    holding = {path[:length] for path in by_path for length in range(len(path))}
    groups = [
        (path, group) for path, group in by_path.items() if group[0]["type"] not in _EXPECTED or path not in holding
    ]
    problems = [_problem(path, group, document, root) for path, group in groups[:MAX_PROBLEMS]]
    return problems, max(0, len(groups) - MAX_PROBLEMS)


def _problem(path: _Path, group: list[ErrorDetails], document: Any, root: type[BaseModel]) -> Problem:
    first = group[0]
    match first["type"]:
        case "extra_forbidden":
            return _unknown_key(path, document, root)
        case "missing":
            what = f"item {path[-1]}" if isinstance(path[-1], int) else quoted(path[-1])
            return Problem(path, f"{what} is missing, and it has no default", _missing_hint(path, first["input"]))
        case "unknown_kind":
            context = first["ctx"]
            return Problem(path, context["message"], context["hint"])
        case "refused":
            context = first["ctx"]
            return Problem((*path, *context["below"]), context["message"], context["hint"])
    expected = dict.fromkeys(_expected(details) for details in group if details["type"] in _EXPECTED)
    if not expected:
        message = _message(first)
        return Problem(path, message, at=_mentioned(path, message, first["input"]))
    message = f"found {described(first['input'])}, expected {' or '.join(expected)}"
    return Problem(path, message, _brackets_hint(path, first["input"], expected))


def _brackets_hint(path: _Path, found: Any, expected: Iterable[str]) -> str | None:
    """Return the header to write where a table has the brackets of a list of tables, or the other way round."""
    name = toml_path(path)
    if isinstance(found, dict) and set(expected) == {"a list"}:
        return f"a list of tables is written [[{name}]]"
    if isinstance(found, list) and found and all(isinstance(item, dict) for item in found):
        return f"a table is written [{name}]"
    return None


def _expected(details: ErrorDetails) -> str:
    phrase = _EXPECTED[details["type"]]
    return phrase if isinstance(phrase, str) else phrase(details["ctx"])


def _message(details: ErrorDetails) -> str:
    """Return the message of a validator of a config, with the value that it refused where that says anything."""
    if details["type"] in ("value_error", "assertion_error"):
        reason = str(details["ctx"]["error"])
        if isinstance(details["input"], (dict, list, tuple)):
            return reason
        separator = ", " if reason.startswith("expected") else ": "
        return f"found {described(details['input'])}{separator}{reason}"
    return f"found {described(details['input'])}: {details['msg']}"


def _mentioned(path: _Path, message: str, table: Any) -> tuple[_Path, ...]:
    """Return the keys of a table that a validator of the table speaks of."""
    if not isinstance(table, dict):
        return ()
    words = dict.fromkeys(re.findall(r"\w+", message))
    return tuple((*path, word) for word in words if word in table)


def _unknown_key(path: _Path, document: Any, root: type[BaseModel]) -> Problem:
    """Say what was meant, a key of here or of another table; else, or where there are few, what is allowed here."""
    key = str(path[-1])
    owner = class_at(root, document, path[:-1])
    allowed = list(owner.model_fields) if owner else []
    home = home_of(path, document, root)
    meant = nearest(key, allowed, similarity=_CLOSE if home else _SOMEHOW_CLOSE)
    message = f"unknown key {quoted(key)}" + (f". Did you mean '{meant}'?" if meant else "")
    hints = [f"it belongs {home}"] if home else []
    if allowed and (len(allowed) <= _FEW or not (meant or home)):
        hints.append(f"allowed here: {', '.join(allowed)}")
    return Problem(path, message, "\n".join(hints) or None, on_key=True)


_SOMEHOW_CLOSE = 0.6
_CLOSE = 0.9
"""How near a key has to be that is suggested beside one that is known elsewhere."""
_FEW = 12
"""Keys that are listed even where it is known which was meant."""


def _missing_hint(path: _Path, owner: Any) -> str | None:
    if path[-1] != "kind":
        return None
    misspelt = nearest("kind", owner) if isinstance(owner, dict) else None
    return f"rename {misspelt!r} to 'kind'" if misspelt else "noether plugins list shows what there is"


def _one_of(expected: str) -> str:
    """Return pydantic's `'a', 'b' or 'c'` with the quotes of TOML."""
    return expected.replace("'", '"')


def _document_path(details: ErrorDetails, document: Any) -> _Path:
    """Return the error's location without what pydantic adds to it: names of union members and validators."""
    path: list[str | int] = []
    value = document
    last = len(details["loc"]) - 1
    for position, part in enumerate(details["loc"]):
        exists = part in value if isinstance(value, dict) else item_at(value, part) is not None
        if exists or (position == last and details["type"] == "missing"):
            path.append(part)
            value = item_at(value, part)
    return tuple(path)
