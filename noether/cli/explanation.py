"""What `spec explain` prints of a key."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from noether.config.secrets import mask
from noether.spec.describe.explain import (
    UNSET,
    Explanation,
    allowed_kinds,
    bounds_of,
    default_of,
    example_of,
    keys_of,
    type_of,
    unit_of,
)
from noether.spec.describe.lookup import Meaning, field_of
from noether.spec.errors.words import toml_literal

_WIDEST = 30
"""A longer value stands out of its column."""


def print_explanation(explanation: Explanation, *, as_json: bool) -> None:
    """Print the value of a key with the chain of who said what, then its documentation."""
    facts = _facts(explanation.meaning)
    if explanation.holder:
        facts = {"entry of": explanation.holder, **facts}
    if as_json:
        said = [{"value": said.value, "where": said.where} for said in explanation.said]
        body = {"key": explanation.key, "value": explanation.value, "said": said, **facts}
        print(mask(json.dumps(body, indent=1)))
        return
    print(f"{explanation.key} = {_shown(explanation.value)}")
    owner = f" of {explanation.meaning.owner}" if explanation.meaning.owner else ""
    lines = [(_shown(said.value), said.where) for said in explanation.said]
    if not explanation.holder:
        lines.append(("-", "no default") if facts["default"] == "required" else (facts["default"], f"default{owner}"))
    _print_columns(lines)
    print()
    _print_columns(facts.items())


def print_meanings(key: str, meanings: Sequence[Meaning], *, as_json: bool) -> None:
    """Print the documentation of a key; kinds that mean the same by it are named together."""
    groups: dict[str, tuple[dict[str, str], list[str]]] = {}
    for meaning in meanings:
        facts = _facts(meaning)
        groups.setdefault(json.dumps(_compared(facts)), (facts, []))[1].append(meaning.owner)
    if as_json:
        print(json.dumps([{"key": key, "of": owners, **facts} for facts, owners in groups.values()], indent=1))
        return
    for number, (facts, owners) in enumerate(groups.values()):
        named = ", ".join(filter(None, owners))
        print(f"{chr(10) if number else ''}{key}{f' of {named}' if named else ''}")
        _print_columns((_compared(facts) if len(owners) > 1 else facts).items())


def _facts(meaning: Meaning) -> dict[str, str]:
    """Return what is known of a field, in the order to show it."""
    field = field_of(meaning)
    facts = {
        "meaning": field.description or "",
        "type": ", ".join(filter(None, (type_of(field), bounds_of(field)))),
        "unit": unit_of(meaning.name, field) or "",
        "default": default_of(field),
        "example": example_of(field) or "",
        "kinds": ", ".join(allowed_kinds(meaning)),
        "keys": ", ".join(keys_of(meaning)),
    }
    return {name: fact for name, fact in facts.items() if fact}


def _compared(facts: dict[str, str]) -> dict[str, str]:
    """Return the facts without a description that only names the class that the option is of."""
    return {name: fact for name, fact in facts.items() if name != "meaning" or not fact.startswith("`")}


def _shown(value: Any) -> str:
    return "unset" if value is UNSET else mask(toml_literal(value))


def _print_columns(rows: Iterable[tuple[str, str]]) -> None:
    lines = list(rows)
    width = max((len(left) for left, _ in lines if len(left) <= _WIDEST), default=0)
    for left, right in lines:
        print(f"  {left.ljust(width)}  {right}")
