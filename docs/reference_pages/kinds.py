"""The page of the built-in kinds by role."""

from __future__ import annotations

from noether.kernel.entries import ROLES, Entry, Role
from noether.kernel.registry import Registry
from reference_pages.markdown import summary, table

_INTRODUCTION = """
# Built-in kinds

The kinds of Noether, by role. `noether plugins list` shows these and what your plugins add;
`noether plugins info KIND` shows the options of one of them. A `kind` in a spec is

- a **short name** from these tables; upper and lower case and `-` or `_` make no difference. A built-in comes before a
  plugin of the same name;
- a **qualified name**, `x/grad-norm`: the plugin's distribution without `noether-plugin-`, then its name for the kind;
- a **dotted path**, `package.module.Class`, of Noether, torch, an installed plugin, the spec's own project, or a
  package named with `--trust`.

An optimizer or a loss takes the options of the class or function behind it.
"""


def built_in(role: str) -> list[Entry]:
    """Return the entries of Noether itself for a role, ordered by name."""
    entries = [entry for entry in Registry.installed().entries(role) if entry.is_built_in]
    return sorted(entries, key=lambda entry: entry.name.lower())


def page() -> str:
    """Return the page."""
    return "\n\n".join([_INTRODUCTION.strip(), *(_section(role) for role in ROLES.values() if built_in(role.name))])


def _section(role: Role) -> str:
    rows = [(f"`{entry.name}`", _summary(entry)) for entry in built_in(role.name)]
    return f"## {role.name}\n\nIn a spec: `{role.hint}`. Entry-point group: `{role.group}`.\n\n" + table(
        ("kind", "is"), rows
    )


def _summary(entry: Entry) -> str:
    """Return the summary of our kinds, and the path of torch's, whose docstrings differ between versions."""
    if entry.target.startswith("torch."):
        return f"`{entry.target.replace(':', '.')}`"
    return summary(Registry.installed().load(entry.role, entry.name).target)
