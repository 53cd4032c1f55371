"""Participants: the components and run plugins of a run that implement hooks, and their implementations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from noether.errors import PluginError
from noether.kernel.entries import BUILT_IN, Component, normal
from noether.kernel.hookspecs import HOOKS
from noether.kernel.markers import has_implementations
from noether.kernel.names import nearest
from noether.kernel.progress import UpdateCounter
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
            f"plugin '{component.kind}' of {component.origin} has the wrong type: found the class "
            f"{component.target.__qualname__}, expected a module or an object",
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
    def with_distribution(self) -> str:
        """Its name, with the distribution of a third party: `callback 'x' of noether-plugin-x 1.2`."""
        is_ours = normal(self.distribution) in ("", BUILT_IN)
        return str(self) if is_ours else f"{self} of {self.distribution} {self.version}"

    @property
    def description(self) -> str:
        """Its name with its origin: `callback 'ema' (kind ema, noether-train 0.1.0)`."""
        origin = f"{self.distribution} {self.version}".strip()
        kind = "" if self.is_plugin else f"kind {self.kind}"
        details = ", ".join(part for part in (kind, origin) if part)
        return f"{self} ({details})" if details else str(self)


NextDue = Callable[[UpdateCounter], int | None]


@dataclass(frozen=True, eq=False, slots=True)
class Implementation:
    """One implementation of one hook.

    Attributes:
        hook: Name of the hook.
        participant: Its participant.
        function: The function to call; a method is bound to its object.
        binding: The arguments that it takes.
        tryfirst: True to be called before the others.
        trylast: True to be called after the others.
        wrapper: True for a generator around the other calls, as in `hookimpl(wrapper=True)`.
        hookwrapper: True for a wrapper of the older form, which gets a `pluggy.Result`.
        next_due: Returns the next update at which an implementation acts that acts only when its interval fires.
    """

    hook: str
    participant: Participant
    function: Callable[..., Any]
    binding: Binding
    tryfirst: bool = False
    trylast: bool = False
    wrapper: bool = False
    hookwrapper: bool = False
    next_due: NextDue | None = None

    @property
    def wraps(self) -> bool:
        """Return True if it is a wrapper of either form."""
        return self.wrapper or self.hookwrapper


def call_order(implementation: Implementation) -> tuple[int, bool]:
    """Return the key that sorts the implementations of a hook; equal ones stay in the order given.

    Run plugins marked tryfirst, components in the order of the spec, the other run plugins in the order of
    `use`, those marked trylast. A component may be marked too; the spec's order then rules within the group.
    """
    is_plugin = implementation.participant.is_plugin
    if implementation.tryfirst:
        return 0, not is_plugin
    if implementation.trylast:
        return 3, is_plugin
    return 1, is_plugin


@dataclass(frozen=True, slots=True)
class Binding:
    """The arguments of a hook that an implementation takes, and the way to pass them.

    Attributes:
        positional: Hook arguments to pass by position: those of positional-only parameters.
        keywords: Hook arguments to pass by name.
        unknown: Required parameters that the hook has no argument for; the call works only if there are none.
        takes_all: True if it takes `**kwargs`.
    """

    positional: tuple[str, ...]
    keywords: tuple[str, ...]
    unknown: tuple[str, ...]
    takes_all: bool = False

    @property
    def source(self) -> str:
        """The argument list of the call as Python source: `update_counter, times=times`."""
        return ", ".join([*self.positional, *(f"{name}={name}" for name in self.keywords)])


def bind(function: Callable[..., Any], arguments: Sequence[str]) -> Binding:
    """Bind an implementation to the arguments that its hook offers.

    It gets every argument that it names, whether its parameter has a default or not, and all of them if it
    takes `**kwargs`. A parameter with a default that the hook does not offer keeps that default.

    Args:
        function: The implementation; a method is bound to its object.
        arguments: Names of the hook's arguments.

    Raises:
        ValueError: if its signature cannot be read (some callables written in C).
        TypeError: if it is not callable.
    """
    positional: list[str] = []
    keywords: list[str] = []
    unknown: list[str] = []
    takes_all = False
    reachable = True  # by position: false behind a positional-only parameter that keeps its default
    for name, parameter in inspect.signature(function).parameters.items():
        takes_all |= parameter.kind is parameter.VAR_KEYWORD
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if name not in arguments:
            if parameter.default is parameter.empty:
                unknown.append(name)
            reachable &= parameter.kind is not parameter.POSITIONAL_ONLY
        elif parameter.kind is not parameter.POSITIONAL_ONLY:
            keywords.append(name)
        elif reachable:
            positional.append(name)
    if takes_all:
        keywords += [name for name in arguments if name not in (*positional, *keywords)]
    return Binding(tuple(positional), tuple(keywords), tuple(unknown), takes_all)
