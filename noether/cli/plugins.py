"""`noether plugins`: what is installed, and what each of it can be told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from noether.cli.options import AsJson, Trusted
from noether.cli.table import print_table

if TYPE_CHECKING:
    pass

app = typer.Typer(help="Look at what is installed.", no_args_is_help=True, rich_markup_mode=None)
RoleName = Annotated[
    str | None,
    typer.Option("--role", metavar="ROLE", help="Only this role: callback, model, …", show_default=False),
]


@app.command("list", epilog="Example: noether plugins list --role callback")
def list_plugins(role: RoleName = None, as_json: AsJson = False) -> None:
    """List every kind that a spec can name, with where it comes from; imports none of it."""
    from noether.kernel.registry import Registry

    entries = Registry.installed().entries(_checked(role))
    rows = [
        {"role": entry.role, "kind": entry.name, "from": entry.origin, "target": entry.target}
        for entry in sorted(entries, key=lambda e: (e.role, not e.is_built_in, e.name.lower()))
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        print_table(rows)


@app.command("info", epilog="Example: noether plugins info offline-loss")
def info(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="A kind as in a spec.", show_default=False)],
    role: RoleName = None,
    trusted: Trusted = [],
) -> None:
    """Show what KIND is, its options with types and defaults, and a table to paste into a spec."""
    from noether.cli.kind_page import print_kind
    from noether.kernel.registry import Registry, use_registry

    registry = Registry.installed(trusted=trusted, project_folders=(Path.cwd(),))
    with use_registry(registry):
        for number, found in enumerate([_checked(role)] if role else registry.roles_of(kind)):
            if number:
                print()
            print_kind(registry.load(found or "callback", kind))


def _checked(role: str | None) -> str | None:
    """Return the role in its singular form, as typed or in the plural."""
    from noether.errors import UsageError
    from noether.kernel.entries import GROUPS
    from noether.kernel.names import did_you_mean

    known = {found.name: found.name for found in GROUPS.values()}
    known |= {group.removeprefix("noether."): found.name for group, found in GROUPS.items()}
    if role is not None and role not in known:
        names = ", ".join(found.name for found in GROUPS.values())
        raise UsageError(f"there is no role '{role}'.{did_you_mean(role, known)}", hint=f"roles are {names}")
    return known[role] if role else None
