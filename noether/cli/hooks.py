"""`noether plugins hooks` and `order`: the hooks of a run, their implementations, and the order of the calls."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noether.cli.output import picked, print_json, print_table, say
from noether.errors import UsageError
from noether.kernel import hookspecs
from noether.kernel.discovery import implemented_hooks
from noether.kernel.entries import PLUGIN, Component
from noether.kernel.hookspecs import HOOKS
from noether.kernel.names import did_you_mean
from noether.kernel.registry import Registry, use_registry

if TYPE_CHECKING:
    from noether.runs.plan.plan_callbacks import OrderedCall

_WITH_HOOKS = ("callback", PLUGIN.name)


def print_hooks(name: str | None, kinds: Iterable[str], trusted: Iterable[str], *, as_json: bool) -> None:
    """Print each hook, its arguments, its moment and its implementations.

    Args:
        name: The one hook to print; None for all.
        kinds: Callbacks and run plugins to import beside the built-in ones.
        trusted: Packages that dotted kinds may name.
        as_json: Print JSON.

    Raises:
        UsageError: if there is no such hook, or a kind has none.
    """
    if name is not None and name not in HOOKS:
        raise UsageError(f"there is no hook '{name}'.{did_you_mean(name, HOOKS)}", hint=f"hooks are {', '.join(HOOKS)}")
    registry = Registry.installed(trusted=trusted, project_folders=(Path.cwd(),))
    with use_registry(registry):
        found = [(component, implemented_hooks(component)) for component in _components(registry, kinds)]
    rows = [_row(hook, found) for hook in HOOKS if name in (None, hook)]
    if as_json:
        print_json(rows)
        return
    for number, row in enumerate(rows):
        text = inspect.getdoc(getattr(hookspecs, row["hook"])) or ""
        say(f"{chr(10) * bool(number)}{row['hook']}({', '.join(row['arguments'])})")
        say("\n".join(f"  {line}".rstrip() for line in text.splitlines()))
        by_origin = groupby(row["implemented_by"], lambda one: one["origin"])
        for origin, ones in by_origin:
            say(f"  implemented by {', '.join(one['kind'] for one in ones)}  ({origin})")


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


def _row(hook: str, found: Sequence[tuple[Component, list[str]]]) -> dict[str, Any]:
    fires = (inspect.getdoc(getattr(hookspecs, hook)) or "").partition("\n")[0]
    implementing = [component for component, hooks in found if hook in hooks]
    return {
        "hook": hook,
        "arguments": list(HOOKS[hook]),
        "fires": fires,
        "implemented_by": [picked(component, "role kind origin") for component in implementing],
    }


def print_order(calls: Sequence[OrderedCall], *, as_json: bool) -> None:
    """Print the calls of each hook, a section each."""
    if as_json:
        print_json([picked(call, "hook id kind origin place interval owner") for call in calls])
        return
    for number, (hook, group) in enumerate(groupby(calls, lambda call: call.hook)):
        say(f"{chr(10) * bool(number)}{hook}")
        print_table([_call(call) for call in group], indent="  ")


def _call(call: OrderedCall) -> dict[str, str]:
    return {
        "called": call.id,
        "kind": call.kind,
        "from": call.origin or "project code",
        "place": f"child of {call.owner}" if call.owner else call.place,
        "when": call.interval.replace("=", " = ") or "each time",
    }
