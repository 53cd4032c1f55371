"""Values that come from environment variables, and passwords in addresses."""

from __future__ import annotations

import tomllib
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretBytes, SecretStr

from noether.config.discriminated import Discriminated
from noether.config.secrets import Reference, remember_password_in, remember_secret, withhold
from noether.spec.errors.problem import CODES, Problem
from noether.spec.fields import alternatives, annotation_at
from noether.spec.locate import TomlPath
from noether.spec.read.layers import Node, value_of


def passwords_in(table: Any, references: Container[TomlPath], path: TomlPath = ()) -> Iterator[Problem]:
    """Mask every password of an address from now on; yield a problem for each that is written in the spec.

    Args:
        table: The spec with values in place of references.
        references: The paths of the references: a run keeps the reference, not the value.
        path: The path of `table`.
    """
    if isinstance(table, str):
        if "://" in table and remember_password_in(table) and path not in references:
            message = "the address holds a password, and every copy of the spec would show it"
            hint = 'put the whole address into a variable: { env = "TRACKING_URI", secret = true }'
            yield Problem("written-password", path, message, hint)
    elif isinstance(table, dict):
        for key, item in table.items():
            yield from passwords_in(item, references, (*path, key))
    elif isinstance(table, list):
        for index, item in enumerate(table):
            yield from passwords_in(item, references, (*path, index))


def secrets_in(value: Any, references: Container[TomlPath], path: TomlPath = ()) -> Iterator[Problem]:
    """Yield a problem for each option of the type `SecretStr` that a spec writes: a dump would hold its mask.

    Args:
        value: A validated spec, or a part of it.
        references: The paths of the references to the environment.
        path: The path of `value`.
    """
    if path in references:
        return
    if isinstance(value, SecretStr | SecretBytes):
        secret = value.get_secret_value()
        remember_secret(secret if isinstance(secret, str) else secret.decode("utf-8", "replace"))
        message = "the option is a secret, which a run does not keep and every copy of the spec would show"
        yield Problem("written-password", path, message, 'put it into a variable: { env = "NAME", secret = true }')
    elif isinstance(value, BaseModel):
        for name in value.model_fields_set:
            yield from secrets_in(getattr(value, name), references, (*path, name))
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from secrets_in(item, references, (*path, key))


_SEE_WHY = "values of the environment are not shown; write the value into the spec to see more"


@dataclass
class Readings:
    """A spec whose references to the environment were replaced by values.

    Attributes:
        table: The spec with values in place of references.
        references: The references that were read, by path.
        problems: Problems of the other references; their values are empty strings.
    """

    table: dict[str, Any]
    references: dict[TomlPath, Reference]
    problems: list[Problem]


def read_environment(root: Node, root_class: type[BaseModel]) -> Readings:
    """Return a document with values in place of references.

    A variable holds text. If the field takes no text, the text is read as TOML: `EPOCHS=3` is an integer.
    """
    readings = Readings(value_of(root), {}, [])
    for path, reference in _references(root, ()):
        fault = reference.fault()
        if fault is None:
            readings.references[path] = reference
        else:
            code, message, hint = fault
            readings.problems.append(Problem(code, path, message, hint))
        _put(readings.table, path, "" if fault else _first_reading(reference))
    quoted: dict[str, str] = {}
    for path, reference in readings.references.items():
        text = reference.text()
        if text is None:
            continue
        value: Any = text
        if not _takes_text(annotation_at(root_class, readings.table, path)):
            value = _as_toml(text)
            _put(readings.table, path, value)
        quoted |= dict.fromkeys([text, *map(str, _leaves(value))], reference.name)
    withhold(quoted)
    return readings


def concealed(problems: Iterable[Problem], references: Mapping[TomlPath, Reference]) -> list[Problem]:
    """Return the problems; those of values of the environment say nothing of the value beside what its field expects.

    Args:
        problems: Problems of a spec.
        references: The references that were read, by path.
    """
    from_outside = {path: reference for path, reference in references.items() if reference.text() is not None}
    return [_concealed(problem, from_outside) for problem in problems]


def _concealed(problem: Problem, references: Mapping[TomlPath, Reference]) -> Problem:
    for path, reference in references.items():
        of_kind = path[-1:] == ("kind",) and problem.path == path[:-1]  # a kind is reported at its table
        if of_kind or any(at[: len(path)] == path for at in (problem.path, *problem.at)):
            where = path if problem.path[: len(path)] == path else problem.path
            found = f"the value of ${reference.name}"
            message = f"found {found}, expected {problem.expected}"
            if not problem.expected:
                meaning = CODES[problem.code].meaning
                message = f"{found} does not fit: {meaning[:1].lower()}{meaning[1:].removesuffix('.')}"
            return replace(problem, path=where, message=message, hint=_SEE_WHY, at=(), on_key=False, expected="")
    return problem


def _leaves(value: Any) -> Iterator[Any]:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    if items is None:
        yield value
    else:
        for item in items:
            yield from _leaves(item)


def _references(node: Node, path: TomlPath) -> Iterator[tuple[TomlPath, Reference]]:
    if isinstance(node.content, Reference):
        yield path, node.content
    elif isinstance(node.content, dict):
        for key, item in node.content.items():
            yield from _references(item, (*path, key))
    elif isinstance(node.content, list):
        for index, item in enumerate(node.content):
            yield from _references(item, (*path, index))


def _first_reading(reference: Reference) -> Any:
    text = reference.text()
    return reference.table.get("default") if text is None else text


def _takes_text(annotation: Any) -> bool:
    """Return True if a field takes text, or has no known type."""
    if annotation is None:
        return True
    return any(
        isinstance(option, Discriminated) or option in (str, Path, Any) or _is_choice_of_text(option)
        for option in alternatives(annotation)
    )


def _is_choice_of_text(option: Any) -> bool:
    return any(isinstance(choice, str) for choice in getattr(option, "__args__", ()))


def _as_toml(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return table["value"] if table.keys() == {"value"} else text


def _put(table: Any, path: TomlPath, value: Any) -> None:
    for part in path[:-1]:
        table = table[part]
    table[path[-1]] = value
