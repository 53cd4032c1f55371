"""Problems from the errors of pydantic, with codes and with `found …, expected …` in plain words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from noether.config.discriminated import CONFIG_BASES, Discriminated, base_config, hint_for_own_option
from noether.config.signature import SignatureConfig
from noether.kernel.entries import PLUGIN, ROLES, TABLE
from noether.kernel.names import nearest
from noether.kernel.registry import active_registry
from noether.spec.errors.problem import CODES, MAX_PROBLEMS, Problem
from noether.spec.errors.words import BOUNDS, TYPES, described, quoted, toml_path
from noether.spec.fields import alternatives, class_at, class_of, item_at
from noether.spec.locate import TomlPath
from noether.spec.tables import hint_for_local_table

_INTEGER, _NUMBER, _LIST, _TABLE = f"an {TYPES[int]}", f"a {TYPES[float]}", f"a {TYPES[list]}", f"a {TYPES[dict]}"
_TYPES: dict[str, str] = {
    "bool_type": TYPES[bool],
    "bool_parsing": TYPES[bool],
    "int_type": _INTEGER,
    "int_parsing": _INTEGER,
    "int_from_float": _INTEGER,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "string_type": f"a {TYPES[str]}",
    "path_type": "a path",
    "list_type": _LIST,
    "tuple_type": _LIST,
    "set_type": _LIST,
    "frozen_set_type": _LIST,
    "dict_type": _TABLE,
    "model_type": _TABLE,
    "model_attributes_type": _TABLE,
    "component_type": "a table with a kind, or the kind alone",
    "none_required": "nothing",
    **dict.fromkeys(("date_type", "date_parsing", "date_from_datetime_parsing"), "a date, 2026-01-31"),
    **dict.fromkeys(("datetime_type", "datetime_parsing"), "a date with a time, 2026-01-31T12:00:00"),
    **dict.fromkeys(("time_type", "time_parsing"), "a time, 12:00:00"),
    **dict.fromkeys(("time_delta_type", "time_delta_parsing"), 'a duration, "1:30:00" or "P2D"'),
}
"""Expected types, by pydantic's type of the error."""
_CHOICES: dict[str, Callable[[dict[str, Any]], str]] = {
    "literal_error": lambda context: _one_of(context["expected"]),
    "enum": lambda context: _one_of(context["expected"]),
    "string_pattern_mismatch": lambda context: f"text that matches {context['pattern']}",
}
_BOUNDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "finite_number": lambda context: "a finite number",
    "greater_than": lambda context: f"a number {BOUNDS['gt']} {context['gt']:g}",
    "greater_than_equal": lambda context: f"{BOUNDS['ge']} {context['ge']:g}",
    "less_than": lambda context: f"a number {BOUNDS['lt']} {context['lt']:g}",
    "less_than_equal": lambda context: f"{BOUNDS['le']} {context['le']:g}",
    "multiple_of": lambda context: f"a multiple of {context['multiple_of']:g}",
    "string_too_short": lambda context: f"at least {context['min_length']} characters",
    "string_too_long": lambda context: f"at most {context['max_length']} characters",
    "too_short": lambda context: f"at least {context['min_length']} items",
    "too_long": lambda context: f"at most {context['max_length']} items",
}
_USE: TomlPath = ("plugins", "use")
_SOMEHOW_CLOSE = 0.6  # least similarity of a suggested key
_CLOSE = 0.9  # the same, beside a suggested table
_FEW = 12  # keys that are listed even beside a suggestion


def problems_of(error: ValidationError, document: dict[str, Any], root: type[BaseModel]) -> tuple[list[Problem], int]:
    """Return one problem per place of a validation error, and the number of problems beyond the limit.

    If a value fits no member of a union, pydantic reports each member; here they are one problem.
    """
    by_path: dict[TomlPath, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        by_path.setdefault(_document_path(details, document), []).append(details)
    holding = {path[:length] for path in by_path for length in range(len(path))}
    groups = [
        (path, group)
        for path, group in by_path.items()
        if path not in holding or _expected(group[0]) is None  # a union also reports its members that hold the others
    ]
    problems = [_problem(path, group, document, root) for path, group in groups[:MAX_PROBLEMS]]
    return problems, max(0, len(groups) - MAX_PROBLEMS)


def _problem(path: TomlPath, group: list[ErrorDetails], document: Any, root: type[BaseModel]) -> Problem:
    first = group[0]
    match first["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            return _unknown_key(path, document, root)
        case "missing" | "missing_argument" | "missing_keyword_only_argument":
            what = f"item {path[-1]}" if isinstance(path[-1], int) else quoted(path[-1])
            message = f"{what} is missing, and it has no default"
            return Problem("missing-key", path, message, _missing_hint(path, first["input"]))
        case "unknown_kind":
            context = first["ctx"]
            code = context.get("code")
            return Problem(code if code in CODES else "unusable-kind", path, context["message"], context["hint"])
        case "refused":
            context = first["ctx"]
            return Problem("wrong-value", (*path, *context["below"]), context["message"], context["hint"])
    expected = dict.fromkeys(phrase for details in group if (phrase := _expected(details)) is not None)
    if not expected:
        message = _message(first)
        return Problem("wrong-value", path, message, at=_mentioned(path, message, first["input"]))
    allowed = " or ".join(expected)
    message = f"found {described(first['input'])}, expected {allowed}"
    return Problem(_code(group), path, message, _brackets_hint(path, first["input"], expected), expected=allowed)


def _code(group: list[ErrorDetails]) -> str:
    """Return the code of a value that fits no member of a union: the member that came nearest decides."""
    types = {details["type"] for details in group}
    if types & _BOUNDS.keys():
        return "out-of-range"
    return "wrong-value" if types & _CHOICES.keys() and isinstance(group[0]["input"], str) else "wrong-type"


def _brackets_hint(path: TomlPath, found: Any, expected: Iterable[str]) -> str | None:
    """Return the header to write if a table has the brackets of a list of tables, or the reverse."""
    name = toml_path(path)
    if isinstance(found, dict) and set(expected) == {_LIST}:
        return f"a list of tables is written [[{name}]]"
    if isinstance(found, list) and found and all(isinstance(item, dict) for item in found):
        return f"a table is written [{name}]"
    return None


def _expected(details: ErrorDetails) -> str | None:
    """Return the expected value in words; None for the message of a validator."""
    kind = details["type"]
    phrase = _CHOICES.get(kind) or _BOUNDS.get(kind)
    return phrase(details.get("ctx", {})) if phrase else _TYPES.get(kind)


def _message(details: ErrorDetails) -> str:
    """Return the message of a config's validator, with the refused value unless that is a table or list."""
    if details["type"] in ("value_error", "assertion_error"):
        reason = str(details["ctx"]["error"])
        if isinstance(details["input"], (dict, list, tuple)):
            return reason
        separator = ", " if reason.startswith("expected") else ": "
        return f"found {described(details['input'])}{separator}{reason}"
    return f"found {described(details['input'])}: {details['msg']}"


def _mentioned(path: TomlPath, message: str, table: Any) -> tuple[TomlPath, ...]:
    """Return the keys of a table that the message of its validator names."""
    if not isinstance(table, dict):
        return ()
    words = dict.fromkeys(re.findall(r"\w+", message))
    return tuple((*path, word) for word in words if word in table)


def _unknown_key(path: TomlPath, document: Any, root: type[BaseModel]) -> Problem:
    """Return the problem of an unknown key: the key or table that was meant, else the allowed keys."""
    key = str(path[-1])
    owner = class_at(root, document, path[:-1])
    if owner is not None and issubclass(owner, SignatureConfig) and key in owner.left_out:
        message = f"{quoted(key)} cannot be set in a spec: {owner.left_out[key]}"
        hint = f"remove it, or use a function of your own that sets it\nallowed here: {', '.join(owner.model_fields)}"
        return Problem("unknown-key", path, message, hint, on_key=True)
    allowed = list(owner.model_fields) if owner else []
    home = home_of(path, document, root)
    meant = nearest(key, allowed, similarity=_CLOSE if home else _SOMEHOW_CLOSE)
    hints = [f"it belongs {home}"] if home else []
    tables = {entry.name: entry for entry in active_registry().entries(TABLE.name)} if len(path) == 1 else {}
    if not meant and not home and (meant := nearest(key, tables)):
        hints.append(f"{tables[meant].origin} has a table [{meant}]")
    if not (home or meant) and len(path) == 1 and (way := hint_for_local_table(key, reduce(item_at, _USE, document))):
        hints.append(way)
    kind = reduce(item_at, (*path[:-1], "kind"), document)
    if not (home or meant) and (own := hint_for_own_option(owner, kind, key)):
        hints.append(own)
    message = f"unknown key {quoted(key)}" + (f". Did you mean '{meant}'?" if meant else "")
    if allowed and (len(allowed) <= _FEW or not (meant or home)):
        hints.append(f"allowed here: {', '.join(allowed)}")
    is_meant = bool(home or meant)
    return Problem("unknown-key", path, message, "\n".join(hints) or None, on_key=True, meant=is_meant)


def _missing_hint(path: TomlPath, owner: Any) -> str | None:
    if path[-1] != "kind":
        return None
    misspelt = nearest("kind", owner) if isinstance(owner, dict) else None
    return f"rename {misspelt!r} to 'kind'" if misspelt else "noether plugins list shows the installed kinds"


def _one_of(expected: str) -> str:
    """Return pydantic's `'a', 'b' or 'c'` with the quotes of TOML."""
    return expected.replace("'", '"')


def _document_path(details: ErrorDetails, document: Any) -> TomlPath:
    """Return the path of an error without the parts that pydantic adds: names of union members and validators."""
    path: list[str | int] = []
    value = document
    last = len(details["loc"]) - 1
    for position, part in enumerate(details["loc"]):
        exists = part in value if isinstance(value, dict) else item_at(value, part) is not None
        if exists or (position == last and details["type"].startswith("missing")):
            path.append(part)
            value = item_at(value, part)
    return tuple(path)


_DEEPEST = 4
"""Longest path of a table that is suggested."""
_OTHER_NAMES = {"data": "dataset", "scheduler": "schedule", "lr_scheduler": "schedule", "criterion": "loss"}
"""Names of roles in other frameworks."""
_OTHER_KEYS = {
    "batch_size": "effective_batch_size",
    "epochs": "max_epochs",
    "num_epochs": "max_epochs",
    "learning_rate": "lr",
}
"""Names of keys in other frameworks."""
_TOP = "at the top, before the first table"
_SHOWN = 2
_LOOKED_AT = 10


class _Table(NamedTuple):
    """A table that a spec may have.

    Attributes:
        path: Its path; the items of an array share the path of the array.
        fields: The class that validates it.
        is_item: True if it is an item of an array of tables.
    """

    path: TomlPath
    fields: type[BaseModel]
    is_item: bool = False

    @property
    def home(self) -> str:
        """The place to write its keys: `in [model]`."""
        if not self.path:
            return _TOP
        return f"in [[{toml_path(self.path)}]]" if self.is_item else f"in [{toml_path(self.path)}]"


def home_of(path: TomlPath, document: Any, root: type[BaseModel]) -> str | None:
    """Return the place where the unknown key at `path` is allowed, `in [model.optimizer]`, or None.

    Args:
        path: The path of the key.
        document: The whole spec; its kinds decide which tables there are.
        root: The class of the whole spec.
    """
    key, value = str(path[-1]), document
    for part in path:
        value = item_at(value, part)
    known = _OTHER_KEYS.get(key, key)
    tables = [table for table in _tables(_Table((), root), document) if known in table.fields.model_fields]
    if any(table.path == path[:-1] for table in tables):
        return f"here, as {known}"  # only the name is from another framework
    homes = list(dict.fromkeys(_home_in(table, known, value) for table in tables))
    if not homes:
        return _home_of_role(key)
    where = _TOP if _TOP in homes else " or ".join(homes[:_SHOWN])
    return where if known == key else f"{where}, as {known}"


def _home_in(table: _Table, key: str, value: Any) -> str:
    """Return the place to write a key with this value: a table has a header of its own."""
    inside = _Table((*table.path, key), table.fields, isinstance(value, list))
    is_table = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value))
    return inside.home if is_table and not table.is_item else table.home


def _home_of_role(key: str) -> str | None:
    name = _OTHER_NAMES.get(key, key)
    for role in (*ROLES.values(), PLUGIN):
        if name in (role.name, role.group.removeprefix("noether.")):
            return f"in {role.hint.replace('<key>', 'train')}"
    return None


def _tables(table: _Table, value: Any) -> Iterator[_Table]:
    """Yield a table and the tables below it, as far as the spec and the base configs of its roles show."""
    yield table
    if len(table.path) < _DEEPEST:
        for name, field in table.fields.model_fields.items():
            yield from _below(field, item_at(value, name), (*table.path, name))


def _below(annotation: Any, value: Any, path: TomlPath, *, is_item: bool = False) -> Iterator[_Table]:
    for option in alternatives(annotation):
        arguments = get_args(option)
        if get_origin(option) is list:
            for item in _examples(value):
                yield from _below(arguments[0], item, path, is_item=True)
        elif get_origin(option) is dict:
            key = next(iter(value), "train") if isinstance(value, dict) else "train"
            yield from _below(arguments[1], item_at(value, key), (*path, key))
        elif fields := _fields(option, value):
            yield from _tables(_Table(path, fields, is_item), value)


def _examples(items: Any) -> list[Any]:
    """Return one item of each kind among the first few, so that a long list costs little."""
    by_kind: dict[str, Any] = {}
    for item in items[:_LOOKED_AT] if isinstance(items, list) else ():
        by_kind.setdefault(str(item.get("kind")) if isinstance(item, dict) else str(item), item)
    return list(by_kind.values()) or [None]


def _fields(option: Any, value: Any) -> type[BaseModel] | None:
    """Return the class that validates a table; without a known kind the base of its role, unless that imports torch."""
    if isinstance(option, Discriminated):
        return class_of(option, value) or (base_config(option.role) if option.role in CONFIG_BASES else None)
    return option if isinstance(option, type) and issubclass(option, BaseModel) else None
