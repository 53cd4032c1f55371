"""The page of the spec: its tables, and the options of every built-in component that has a config of its own."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from noether.config.components import SweepSettings, SweepTable
from noether.config.discriminated import CONFIG_BASES, config_class_of
from noether.config.signature import SignatureConfig
from noether.kernel.entries import ROLES
from noether.kernel.registry import Registry
from noether.spec.fields import table_class_of
from noether.spec.model import CheckpointsTable, Expectation, LoaderTable, PluginsTable, RunSpec
from noether.spec.schema import schema_of
from reference_pages.kinds import built_in
from reference_pages.markdown import fields_table, summary

TABLES: dict[str, type[BaseModel]] = {
    "[loader]": LoaderTable,
    "[plugins]": PluginsTable,
    "[checkpoints]": CheckpointsTable,
    "[expect]": Expectation,
    "[sweep]": SweepTable,
    "[sweep.settings]": SweepSettings,
}
_INTRODUCTION = """
# The spec

A run is one TOML file of at most 1 MiB. Unknown keys are errors, types are strict (`"5"` is not an integer), and all
problems are shown at once. `noether check SPEC` validates without running. Input paths are relative to the file that
holds them, `output` to the working folder. The run folder keeps the file as it was given (`spec.toml`) and with every
default filled in (`spec.resolved.toml`); running the latter is the same run.

Any value may be read from an environment variable instead: `{ env = "NAME", default = … }`, with `secret = true` for
a value that must not be shown. `noether spec explain KEY SPEC` shows the meaning of a key, its value and the layer that
set it; `noether spec schema` writes all of this for editors.

If a type names a role in italics, such as *model*, the value is a table with a `kind`, or the bare kind as a string.
"""


def page() -> str:
    """Return the page."""
    parts = [_INTRODUCTION.strip(), "## Top level", fields_table(RunSpec.model_fields)]
    for name, table_class in TABLES.items():
        parts += [f"## {name}", summary(table_class), fields_table(table_class.model_fields)]
    for role in ROLES:
        parts += _role(role)
    return "\n\n".join(parts)


def _role(role: str) -> list[str]:
    """Return the sections of a role: options of all kinds, then each kind; callbacks have their own page."""
    if role == "callback" or not built_in(role):
        return []
    configs = {
        entry.name: config_class_of(Registry.installed().load(role, entry.name).target, role)
        for entry in built_in(role)
    }
    own = {kind: config for kind, config in configs.items() if not issubclass(config, SignatureConfig)}
    base = _base_fields(role)
    parts = [f"## {role}", f"In a spec: `{ROLES[role].hint}`. Kinds: [built-in kinds](kinds.md#{role})."]
    if base:
        parts += ["Options of every kind:", fields_table(base), *_tables_in(base)]
    for kind, config in own.items():
        fields = {name: field for name, field in config.model_fields.items() if name not in {*base, "kind"}}
        if fields:
            parts += [f"### {role} {kind}", summary(config), fields_table(fields), *_tables_in(fields)]
    return parts


def _tables_in(fields: dict[str, FieldInfo]) -> list[str]:
    """Return the options of the tables without a kind that some fields hold in a list."""
    parts = []
    for name, field in fields.items():
        if (table_class := table_class_of(field)) is not None:
            parts += [f"Each table of `{name}`: {summary(table_class)}", fields_table(table_class.model_fields)]
    return parts


def _base_fields(role: str) -> dict[str, FieldInfo]:
    """Return the options of every kind of a role, without `kind`."""
    module, _, name = CONFIG_BASES.get(role, "noether.training.trainers.config:BaseTrainerConfig").partition(":")
    fields = getattr(import_module(module), name).model_fields
    return {name: field for name, field in fields.items() if name != "kind"}


def keys() -> str:
    """Return the keys of all tables of built-in kinds, for shell completion, see `noether.cli.completion`."""
    registry = Registry([entry for entry in Registry.installed().entries() if entry.is_built_in])
    schema, _ = schema_of(registry)

    def is_offered(key: str, value: Any) -> bool:
        return key not in ("kind", "resolved") and "const" not in value

    tables = {"spec": schema["else"], **schema["$defs"]}
    known = {
        name: {key: _definition(value) for key, value in table["properties"].items() if is_offered(key, value)}
        for name, table in tables.items()
        if "properties" in table and name not in ("env", "removed") and ".part." not in name
    }
    lines = (f"{json.dumps(name)}: {json.dumps(found)}" for name, found in known.items() if found)
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _definition(schema: dict[str, Any]) -> str:
    """Return the definition of a key's value: a name, `*role`, or one of them after `[]` or `{}`; empty for a value."""
    for one in [schema, *schema.get("anyOf", ())]:
        if (name := one.get("$ref", "").removeprefix("#/$defs/")) not in ("", "env"):
            return f"*{name}" if name in ROLES else name
        for mark, part in (("[]", "items"), ("{}", "additionalProperties")):
            below = _definition(one[part]) if isinstance(one.get(part), dict) else ""
            if below:
                return mark + below
    return ""
