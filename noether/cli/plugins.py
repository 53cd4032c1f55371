"""`noether plugins`: the installed kinds, their options and hooks, and the order of the calls in a run."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noether.cli.options import AsJson, Spec, SpecOptions, Trusted, argument, completed, verb, verbs
from noether.cli.output import picked, print_json, print_table, say
from noether.errors import UsageError
from noether.kernel.entries import (
    GROUPS,
    PLUGIN,
    TABLE,
    Component,
    Entry,
    installed_entries,
    unreadable_distributions,
    way_out,
)
from noether.kernel.names import did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from noether.kernel.registry import Registry
    from noether.runs.plan.plan_callbacks import OrderedCall

app = verbs("Look at what is installed.")
RoleName = Annotated[
    str | None,
    typer.Option(
        "--role",
        metavar="ROLE",
        help="Only this role: callback, model, …",
        show_default=False,
        autocompletion=completed("roles"),
    ),
]

_COLUMNS = ("role", "kind", "origin", "status", "note", "summary", "target")
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

    Each with its distribution, its status, and what to write if that is not ok. Nothing is imported.
    """
    from noether.cli.doctor import standing

    only = checked_role(role)
    entries = sorted(installed_entries(), key=lambda e: (e.role, not e.is_built_in, e.name.lower()))
    of_role = {name: list(group) for name, group in groupby(entries, lambda entry: entry.role)}
    rows = [_listed(entry, *standing(entry, of_role[entry.role])) for entry in entries if only in (None, entry.role)]
    for origin, error in unreadable_distributions().items():
        note = f"its entry points cannot be read, {error}: {way_out(origin.partition(' ')[0])}"
        rows.append(dict.fromkeys(_COLUMNS, "") | {"origin": origin, "status": "invalid", "note": note})
    if as_json:
        print_json(rows)
    else:
        shown = [*_COLUMNS[:4], *(key for key in _COLUMNS[4:6] if any(row[key] for row in rows))]
        print_table([{key: row[key] for key in shown} for row in rows])


def _listed(entry: Entry, status: str, note: str) -> dict[str, str]:
    summary = "" if entry.is_built_in else entry.summary
    values = (entry.role, entry.name, entry.origin, status, note, summary, entry.target)
    return dict(zip(_COLUMNS, values, strict=True))


@verb(app, "info", example="noether plugins info offline-loss")
def info(
    kind: Annotated[str, argument("KIND", "A kind as in a spec.", "kinds")],
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


@verb(app, "hooks", example="noether plugins hooks after_epoch -p ema")
def hooks(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One hook.", show_default="all of them")] = None,
    kinds: Annotated[
        list[str],
        typer.Option(
            "-p",
            "--plugin",
            metavar="KIND",
            help="Import this callback or run plugin too, to show its hooks; may be repeated.",
            show_default=False,
        ),
    ] = [],
    trusted: Trusted = [],
    as_json: AsJson = False,
) -> None:
    """Show each hook, and the callbacks that implement it.

    Only an import tells what implements a hook: it is done for what is built in and for what -p names, and for no other
    installed plugin. `noether plugins order SPEC` shows what a run calls.
    """
    rows = _hook_rows(name, kinds, trusted)
    if as_json:
        print_json(rows)
        return
    for number, row in enumerate(rows):
        say(f"{chr(10) * bool(number)}{row['hook']}({', '.join(row['arguments'])})")
        say("\n".join(f"  {line}".rstrip() for line in _text_of(row["hook"]).splitlines()))
        for origin, ones in groupby(row["implemented_by"], lambda one: one["origin"]):
            say(f"  implemented by {', '.join(one['kind'] for one in ones)}  ({origin})")


@verb(app, "order", example="noether plugins order specs/experiment.toml")
def order(spec: Spec, options: SpecOptions, as_json: AsJson = False) -> None:
    """Show the calls of each hook in a run of SPEC, in their order.

    Wrappers, run plugins that are first, callbacks in the order of the spec, the other run plugins, those that are
    last. Hooks are compiled as for the run; nothing is trained or left behind.
    """
    from noether.runs.plan.plan_callbacks import ordered_calls
    from noether.runs.prepare import rehearsal

    loaded = options.load(spec)
    with rehearsal(loaded, options.plugins) as run:
        calls = ordered_calls(run)
    if as_json:
        print_json([picked(call, "hook id kind origin place interval owner") for call in calls])
        return
    for number, (hook, group) in enumerate(groupby(calls, lambda call: call.hook)):
        say(f"{chr(10) * bool(number)}{hook}")
        print_table([_call(call) for call in group], indent="  ")


@verb(app, "doctor", example="noether plugins doctor noether-plugin-x")
def doctor(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="A distribution, or a kind of it.", show_default="every one but Noether"),
    ] = None,
    limit: Annotated[
        float, typer.Option("--time-limit", metavar="SECONDS", min=0.0, help="The longest time for one import.")
    ] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Report the cost and the defects of each installed plugin.

    Each is imported in a process of its own: seconds, memory, torch, versions, taken names, wrong kinds and hooks,
    prints, and changes of global state. Exit codes: 0 nothing is wrong, 1 something is.
    """
    from noether.cli.doctor import examine, print_reports

    reports = examine(name, limit)
    if as_json:
        print_json(reports)
    else:
        print_reports(reports)
    if any(report["problems"] for report in reports):
        raise typer.Exit(1)


@verb(app, "new", example="noether plugins new grad-noise --role callback")
def new(
    name: Annotated[str, argument("NAME", "The kind, as a spec will name it.")],
    role: Annotated[str, typer.Option("--role", metavar="ROLE", help="Its role: callback, model, …")] = "callback",
    folder: Annotated[
        Path | None,
        typer.Option("--folder", metavar="FOLDER", help="The new folder.", show_default="noether-plugin-NAME"),
    ] = None,
) -> None:
    """Write a package with one plugin of a role.

    It passes its own tests as it is; change it step by step.
    """
    from noether.cli.package import write_package

    folder = write_package(name, checked_role(role) or role, folder or Path(f"noether-plugin-{name}"))
    say(f"{folder}: a package with the {role} '{name}'\n")
    say(f"cd {folder}\npython -m pip install -e '.[test]'\npython -m pytest\nnoether plugins check .")


@verb(app, "check", example="noether plugins check .")
def check(
    folder: Annotated[Path, argument("PATH", "The folder of the package.")],
) -> None:
    """Check a package of plugins before it is published.

    Its metadata, its entry points, what it imports, a contract for each plugin, and its tests.
    """
    from noether.cli.package import problems_of, run_tests

    found = problems_of(folder)
    for problem in found:
        say(f"error: {problem}", to_stderr=True)
    if found:
        raise UsageError(f"{len(found)} problem{'s' * (len(found) > 1)} in {folder}", hint="mend them, and check again")
    run_tests(folder)
    say(f"{folder} is ready to publish")


def checked_role(role: str | None) -> str | None:
    """Return the role in its singular form, as typed or in the plural."""
    known = {found.name: found.name for found in GROUPS.values()}
    known |= {group.removeprefix("noether."): found.name for group, found in GROUPS.items()}
    if role is not None and role not in known:
        names = ", ".join(found.name for found in GROUPS.values())
        raise UsageError(f"there is no role '{role}'.{did_you_mean(role, known)}", hint=f"roles are {names}")
    return known[role] if role else None


def _print_kind(component: Component) -> None:
    """Print the origin of a kind, its purpose, its options, and an example."""
    from noether.config.discriminated import config_class_of
    from noether.spec.fields import table_class_of

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
    if component.role == "callback":
        say()
        _print_hooks(component)
    for name, reason in getattr(config_class, "left_out", {}).items():
        say(f"\n{name} is not an option: {reason}")
    say(f"\n{_example(component, config_class)}")


def _print_plugin(component: Component) -> None:
    summary = (inspect.getdoc(component.target) or "").strip().partition("\n")[0]
    say(f"run plugin '{component.kind}' from {component.origin}")
    say(f"  {summary}\n" if summary else "")
    _print_hooks(component)
    say(f'\n[plugins]\nuse = ["{component.kind}"]')


def _print_hooks(component: Component) -> None:

    from noether.kernel.discovery import discovered, implemented_hooks

    say(f"implements {', '.join(implemented_hooks(component)) or 'no hook'}")
    for problem in discovered(component).problems:
        say(f"error: {problem}")


def _row(name: str, field: FieldInfo) -> dict[str, str]:
    from noether.spec.explain import type_of

    default = "required" if field.is_required() else _shown(field.get_default(call_default_factory=True))
    return {
        "option": name,
        "type": type_of(field),
        "default": default,
        "meaning": " ".join((field.description or "").split()),
    }


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


_WITH_HOOKS = ("callback", PLUGIN.name)


def _hook_rows(name: str | None, kinds: Iterable[str], trusted: Iterable[str]) -> list[dict[str, Any]]:
    """Return each hook, or the named one, with its arguments, its moment and its implementations.

    Raises:
        UsageError: if there is no such hook, or a kind has none.
    """
    from noether.kernel.discovery import implemented_hooks
    from noether.kernel.hookspecs import HOOKS
    from noether.kernel.registry import Registry, use_registry

    if name is not None and name not in HOOKS:
        raise UsageError(f"there is no hook '{name}'.{did_you_mean(name, HOOKS)}", hint=f"hooks are {', '.join(HOOKS)}")
    registry = Registry.installed(trusted=trusted, project_folders=(Path.cwd(),))
    with use_registry(registry):
        found = [(component, implemented_hooks(component)) for component in _components(registry, kinds)]
    return [_hook_row(hook, HOOKS[hook], found) for hook in HOOKS if name in (None, hook)]


def _components(registry: Registry, kinds: Iterable[str]) -> list[Component]:
    """Import the built-in callbacks and run plugins, and those that are named."""
    found = [
        registry.load(role, entry.qualified)
        for role in _WITH_HOOKS
        for entry in registry.entries(role)
        if entry.is_built_in
    ]
    for kind in dict.fromkeys(kinds):
        roles = [role for role in registry.roles_of(kind) if role in _WITH_HOOKS]
        if not roles:
            raise UsageError(f"'{kind}' has no hooks", hint="callbacks and run plugins have: noether plugins list")
        found += [registry.load(role, kind) for role in roles]
    return found


def _text_of(hook: str) -> str:
    from noether.kernel import hookspecs

    return inspect.getdoc(getattr(hookspecs, hook)) or ""


def _hook_row(hook: str, arguments: Sequence[str], found: Sequence[tuple[Component, list[str]]]) -> dict[str, Any]:
    implementing = [component for component, hooks in found if hook in hooks]
    return {
        "hook": hook,
        "arguments": list(arguments),
        "fires": _text_of(hook).partition("\n")[0],
        "implemented_by": [picked(component, "role kind origin") for component in implementing],
    }


def _call(call: OrderedCall) -> dict[str, str]:
    return {
        "called": call.id,
        "kind": call.kind,
        "from": call.origin or "project code",
        "place": f"child of {call.owner}" if call.owner else call.place,
        "when": call.interval.replace("=", " = ") or "each time",
    }
