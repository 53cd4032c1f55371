"""`noether plugins`: the kinds that are installed, and the options of each."""

from __future__ import annotations

import inspect
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

import typer

from noether.cli.options import AsJson, Trusted, verb, verbs
from noether.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from noether.kernel.entries import Component

app = verbs("Look at what is installed.")
RoleName = Annotated[
    str | None,
    typer.Option("--role", metavar="ROLE", help="Only this role: callback, model, …", show_default=False),
]

_PLACES = {
    "callback": "[[trainer.callbacks]]",
    "dataset": "[datasets.train]",
    "transform": "[[transforms]]",
    "tracker": "[[trackers]]",
    "model": "[model]",
    "trainer": "[trainer]",
    "initializer": "[initializer]",
}
_INLINE = {"loss": "loss_fn", "collator": "collate", "optimizer": "optimizer", "schedule": "schedule"}


@verb(app, "list", example="noether plugins list --role callback")
def list_plugins(role: RoleName = None, as_json: AsJson = False) -> None:
    """List every kind that a spec can name.

    Each with its distribution; none is imported.
    """
    from noether.kernel.entries import installed_entries

    only = checked_role(role)
    rows = [
        {"role": entry.role, "kind": entry.name, "from": entry.origin, "target": entry.target}
        for entry in sorted(installed_entries(), key=lambda e: (e.role, not e.is_built_in, e.name.lower()))
        if only in (None, entry.role)
    ]
    if as_json:
        print_json(rows)
    else:
        print_table(rows)


@verb(app, "info", example="noether plugins info offline-loss")
def info(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="A kind as in a spec.", show_default=False)],
    role: RoleName = None,
    trusted: Trusted = [],
) -> None:
    """Show a kind and its options.

    Origin, options with types and defaults, and a table to paste into a spec.
    """
    from noether.kernel.registry import Registry, use_registry

    registry = Registry.installed(trusted=trusted, project_folders=(Path.cwd(),))
    with use_registry(registry):
        for number, found in enumerate([checked_role(role)] if role else registry.roles_of(kind)):
            if number:
                say()
            _print_kind(registry.load(found or "callback", kind))


@verb(app, "new", example="noether plugins new grad-noise --role callback")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The kind, as a spec will name it.", show_default=False)],
    role: Annotated[str, typer.Option("--role", metavar="ROLE", help="Its role: callback, model, …")] = "callback",
    folder: Annotated[
        Path | None,
        typer.Option("--folder", metavar="FOLDER", help="The new folder.", show_default="noether-plugin-NAME"),
    ] = None,
) -> None:
    """Write a package with one plugin of a role.

    It passes its own tests as it is; change it step by step.
    """
    from noether.cli.new_plugin import write_package

    folder = write_package(name, checked_role(role) or role, folder or Path(f"noether-plugin-{name}"))
    say(f"{folder}: a package with the {role} '{name}'\n")
    say(f"cd {folder}\npython -m pip install -e '.[test]'\npython -m pytest\nnoether plugins check .")


@verb(app, "check", example="noether plugins check .")
def check(
    folder: Annotated[Path, typer.Argument(metavar="PATH", help="The folder of the package.", show_default=False)],
) -> None:
    """Check a package of plugins before it is published.

    Its metadata, its entry points, what it imports, a contract for each plugin, and its tests.
    """
    from noether.cli.check_plugin import problems_of, run_tests
    from noether.errors import UsageError

    found = problems_of(folder)
    for problem in found:
        say(f"error: {problem}", to_stderr=True)
    if found:
        raise UsageError(f"{len(found)} problem{'s' * (len(found) > 1)} in {folder}", hint="mend them, and check again")
    run_tests(folder)
    say(f"{folder} is ready to publish")


def checked_role(role: str | None) -> str | None:
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


def _print_kind(component: Component) -> None:
    """Print the origin of a kind, its purpose, its options, and an example."""
    from noether.config.discriminated import config_class_of
    from noether.kernel.entries import PLUGIN, TABLE
    from noether.spec.describe.fields import table_class_of

    if component.role == PLUGIN.name:
        _print_plugin(component)
        return
    is_table = component.role == TABLE.name
    config_class = component.target if is_table else config_class_of(component.target, component.role)
    summary = (inspect.getdoc(component.target) or "").strip().partition("\n")[0]
    path = f"{component.target.__module__}.{getattr(component.target, '__qualname__', '')}"
    say(f"{component.role} '{component.kind}' from {component.origin}: {path}\n  {summary}\n")
    fields = {name: field for name, field in config_class.model_fields.items() if name != "kind"}
    print_table([_row(name, field) for name, field in fields.items()])
    for name, field in fields.items():
        if (table_class := table_class_of(field)) is not None:
            say(f"\neach table of {name}\n")
            print_table([_row(*option) for option in table_class.model_fields.items()])
    for name, reason in getattr(config_class, "left_out", {}).items():
        say(f"\n{name} is not an option: {reason}")
    say(f"\n{_example(component, config_class)}")


def _print_plugin(component: Component) -> None:
    from noether.kernel.hookspecs import HOOKS
    from noether.kernel.markers import implementation_options

    hooks = [name for name in HOOKS if implementation_options(getattr(component.target, name, None)) is not None]
    summary = (inspect.getdoc(component.target) or "").strip().partition("\n")[0]
    say(f"run plugin '{component.kind}' from {component.origin}")
    say(f"  {summary}\n" if summary else "")
    say(f"implements {', '.join(hooks) or 'no hook'}\n")
    say(f'[plugins]\nuse = ["{component.kind}"]')


def _row(name: str, field: FieldInfo) -> dict[str, str]:
    default = "required" if field.is_required() else _shown(field.get_default(call_default_factory=True))
    return {
        "option": name,
        "type": _type(field.annotation),
        "default": default,
        "meaning": " ".join((field.description or "").split()),
    }


def _type(annotation: Any) -> str:
    """Return a type in the words of a spec: `float | None`, and `table` if a `kind` chooses its options."""
    if isinstance(annotation, type) and not get_args(annotation):
        return _type_of_class(annotation)
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join("None" if member is NoneType else _type(member) for member in get_args(annotation))
    if get_origin(annotation) is Annotated or annotation is Any:
        return "table"
    if get_origin(annotation) is list:
        return f"list[{_type(get_args(annotation)[0])}]"
    return str(annotation).replace("typing.", "")


def _type_of_class(annotation: type) -> str:
    from noether.spec.describe.fields import is_table

    if issubclass(annotation, Enum):
        return " | ".join(repr(member.value) for member in annotation)
    if is_table(annotation):
        return "table"
    return "list" if hasattr(annotation, "_fields") else annotation.__name__


def _shown(value: Any) -> str:
    from noether.spec.errors.words import toml_literal

    if value is None:
        return "unset"
    kind = getattr(value, "kind", None)
    return toml_literal(value if kind is None else kind)


def _example(component: Component, config_class: type[BaseModel]) -> str:
    """Return TOML that names the kind and its required options."""
    required = [name for name, field in config_class.model_fields.items() if field.is_required()]
    if component.role in _INLINE:
        options = "".join(f", {name} = …" for name in required)
        return f'{_INLINE[component.role]} = {{ kind = "{component.kind}"{options} }}'
    lines = [_PLACES.get(component.role, ""), f'kind = "{component.kind}"']
    if component.role == "table":
        lines = [f"[{component.kind.rpartition('/')[2]}]"]
    if getattr(config_class, "needs_interval", False):
        lines.append("every_n_epochs = 1")
    return "\n".join([*lines, *(f"{name} = …" for name in required)])
