"""Participants: the components and run plugins of a run that implement hooks."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from noether.errors import PluginError
from noether.kernel.entries import Component
from noether.kernel.hookspecs import HOOKS
from noether.kernel.markers import has_implementations
from noether.kernel.names import nearest
from noether.kernel.registry import Registry, active_registry


def load_plugins(names: Iterable[str], registry: Registry | None = None) -> list[Participant]:
    """Import run plugins; one that is named twice is loaded once, at its first place.

    Args:
        names: Names in the group `noether.plugins`, short or qualified, or dotted paths of trusted modules.
        registry: The registry that has them; the active one by default.

    Raises:
        PluginError: if a name is unknown, contested or not trusted, or its module fails to import or implements no
            hook.
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
            f"plugin '{component.kind}' has the wrong type: found the class {component.target.__qualname__}, expected "
            "a module or an object",
            hint="name a module, or an object of that class",
        )
    if not has_implementations(component.target):
        meant = [name for name in dir(component.target) if not name.startswith("_") and nearest(name, HOOKS)]
        found = f"functions without @noether.hookimpl such as {meant[0]}" if meant else "no hook functions"
        raise PluginError(
            f"plugin '{component.kind}' of {component.origin} implements no hook: found {found}",
            hint="mark its functions with @noether.hookimpl",
        )


@dataclass(frozen=True, eq=False, slots=True)
class Participant:
    """An object that implements hooks, with its names in errors, profiles and digests.

    Participants compare by identity: the `__eq__` or `__hash__` of the object itself may do anything.

    Attributes:
        id: Unique name within the run, the key of state and timings.
        kind: Canonical kind of a component, or name of a run plugin.
        instance: The callback, or the module or object of a run plugin.
        distribution: Name of its distribution; empty for project code.
        version: Version of that distribution.
        without: Hooks that its owner calls on it, and the run does not.
        is_plugin: True for a run plugin, whose hooks are the functions marked with `@noether.hookimpl`.
    """

    id: str
    kind: str
    instance: Any
    distribution: str = ""
    version: str = ""
    is_plugin: bool = False
    without: frozenset[str] = frozenset()

    def __str__(self) -> str:
        """Return its name in errors: `callback 'ema'`, `plugin 'hello'`."""
        return f"{'plugin' if self.is_plugin else 'callback'} '{self.id}'"

    @property
    def description(self) -> str:
        """Its name with its origin: `callback 'ema' (kind ema, noether-train 0.1.0)`."""
        origin = f"{self.distribution} {self.version}".strip()
        kind = "" if self.is_plugin else f"kind {self.kind}"
        details = ", ".join(part for part in (kind, origin) if part)
        return f"{self} ({details})" if details else str(self)
