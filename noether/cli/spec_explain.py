"""`noether spec explain`: show the meaning of a key, its value, and the layers that set it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noether.cli.options import AsJson, SpecOptions
from noether.cli.output import print_facts, print_json, say

if TYPE_CHECKING:
    from noether.spec.describe.explain import Explanation
    from noether.spec.describe.lookup import Meaning

EXAMPLE = "noether spec explain trainer.max_epochs specs/experiment.toml"


def explain(
    key: Annotated[
        str,
        typer.Argument(metavar="KEY", help="A key as in -s: trainer.callbacks[val].max_size.", show_default=False),
    ],
    options: SpecOptions,
    spec: Annotated[
        Path | None, typer.Argument(metavar="[SPEC]", help="The TOML file of the run.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Explain KEY, and with SPEC its value.

    Shows meaning, type, unit, default and allowed kinds; with SPEC also every layer that sets the key.
    """
    from noether.kernel.registry import Registry, use_registry
    from noether.spec.describe.explain import documented, explained
    from noether.spec.load import load_spec

    if spec is not None:
        loaded = load_spec(spec, options.overrides, trust=options.trusted, plugins=options.plugins)
        with use_registry(loaded.registry):
            _print_explanation(explained(key, loaded), as_json=as_json)
        return
    _check_no_overrides(key, options)
    with use_registry(Registry.installed(trusted=options.trusted, project_folders=(Path.cwd(),))):
        _print_meanings(key, documented(key), as_json=as_json)


def _check_no_overrides(key: str, options: SpecOptions) -> None:
    from noether.errors import UsageError
    from noether.spec.read.overrides import Unset

    if options.overrides:
        option = "--unset" if all(isinstance(override, Unset) for override in options.overrides) else "-s"
        hint = f"noether spec explain {key} SPEC {option} …"
        raise UsageError(f"{option} goes with a spec, which is missing", hint=hint)


def _print_explanation(explanation: Explanation, *, as_json: bool) -> None:
    """Print the value of a key, the layers that set it, and its documentation."""
    facts = _facts(explanation.meaning)
    if explanation.holder:
        facts = {"entry of": explanation.holder, **facts}
    if as_json:
        said = [{"value": said.value, "where": said.where} for said in explanation.said]
        print_json({"key": explanation.key, "value": explanation.value, "said": said, **facts})
        return
    say(f"{explanation.key} = {_shown(explanation.value)}")
    owner = f" of {explanation.meaning.owner}" if explanation.meaning.owner else ""
    lines = [(_shown(said.value), said.where) for said in explanation.said]
    if not explanation.holder:
        lines.append(("-", "no default") if facts["default"] == "required" else (facts["default"], f"default{owner}"))
    print_facts(lines, indent="  ")
    say()
    print_facts(facts.items(), indent="  ")


def _print_meanings(key: str, meanings: Sequence[Meaning], *, as_json: bool) -> None:
    """Print the documentation of a key; kinds with the same documentation share one section."""
    groups: dict[str, tuple[dict[str, str], list[str]]] = {}
    for meaning in meanings:
        facts = _facts(meaning)
        groups.setdefault(json.dumps(_compared(facts)), (facts, []))[1].append(meaning.owner)
    if as_json:
        print_json([{"key": key, "of": owners, **facts} for facts, owners in groups.values()])
        return
    for number, (facts, owners) in enumerate(groups.values()):
        named = ", ".join(filter(None, owners))
        say(f"{chr(10) if number else ''}{key}{f' of {named}' if named else ''}")
        print_facts((_compared(facts) if len(owners) > 1 else facts).items(), indent="  ")


def _facts(meaning: Meaning) -> dict[str, str]:
    """Return the documentation of a field, in the order to show it."""
    from noether.spec.describe.explain import (
        allowed_kinds,
        bounds_of,
        default_of,
        example_of,
        keys_of,
        type_of,
        unit_of,
    )
    from noether.spec.describe.lookup import field_of

    field = field_of(meaning)
    facts = {
        "meaning": " ".join((field.description or "").split()),
        "type": ", ".join(filter(None, (type_of(field), bounds_of(field)))),
        "unit": unit_of(meaning.name, field) or "",
        "default": default_of(field),
        "example": example_of(field) or "",
        "kinds": ", ".join(allowed_kinds(meaning)),
        "keys": ", ".join(keys_of(meaning)),
    }
    return {name: fact for name, fact in facts.items() if fact}


def _compared(facts: dict[str, str]) -> dict[str, str]:
    """Return the facts without a description that only names the class of the option."""
    return {name: fact for name, fact in facts.items() if name != "meaning" or not fact.startswith("`")}


def _shown(value: Any) -> str:
    from noether.config.secrets import mask
    from noether.spec.describe.explain import UNSET
    from noether.spec.errors.words import toml_literal

    return "unset" if value is UNSET else mask(toml_literal(value))
