"""The page of the spec: its tables, and the options of every built-in component that has a config of its own."""

from __future__ import annotations

from importlib import import_module

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from noether.config.discriminated import CONFIG_BASES, config_class_of
from noether.config.signature import SignatureConfig
from noether.config.sweep import SweepSettings, SweepTable
from noether.kernel.entries import ROLES
from noether.kernel.registry import Registry
from noether.spec.describe.fields import table_class_of
from noether.spec.model import CheckpointsTable, Expectation, LoaderTable, PluginsTable, RunSpec
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
