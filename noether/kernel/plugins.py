"""Load the run plugins that a spec or the command line names."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from noether.core.utils.nearest import nearest
from noether.errors import PluginError
from noether.kernel.hookspecs import HOOKS
from noether.kernel.markers import implementation_options
from noether.kernel.participant import Participant
from noether.kernel.registry import Component, Registry, active_registry


def load_plugins(names: Iterable[str], registry: Registry | None = None) -> list[Participant]:
    """Import run plugins; one that is named twice is loaded once, at its first place.

    Args:
        names: Names in the group `noether.plugins`, short or qualified, or dotted paths of trusted modules.
        registry: Where to look them up; the active one by default.

    Raises:
        PluginError: A name is unknown, contested or not trusted, its module fails to import, or it implements
            no hook.
    """
    registry = registry or active_registry()
    loaded: dict[str, Component] = {}
    for name in names:
        component = registry.load("plugin", name)
        _check(component)
        loaded.setdefault(component.kind, component)
    return [
        Participant(kind, kind, component.target, component.distribution, component.version, is_plugin=True)
        for kind, component in loaded.items()
    ]


def _check(component: Component) -> None:
    if inspect.isclass(component.target):
        raise PluginError(
            f"plugin '{component.kind}' names the class {component.target.__qualname__}",
            hint="name a module, or an object of that class",
        )
    functions = [inspect.getattr_static(component.target, name, None) for name in dir(component.target)]
    if not any(implementation_options(function) is not None for function in functions):
        meant = [name for name in dir(component.target) if not name.startswith("_") and nearest(name, HOOKS)]
        found = f"; is {meant[0]} meant to be one?" if meant else ""
        raise PluginError(
            f"plugin '{component.kind}' of {component.origin} implements no hook{found}",
            hint="mark its functions with @noether.hookimpl",
        )
