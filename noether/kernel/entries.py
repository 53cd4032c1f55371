"""Entries: the names registered in entry-point groups, and the roles of components."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import Distribution, PackageNotFoundError, entry_points, version
from typing import Any

from noether.kernel.trust import ALWAYS_TRUSTED, Trust


@dataclass(frozen=True, slots=True)
class Role:
    """What a `kind` at one place of the spec must be.

    Attributes:
        name: Singular name: `callback`.
        group: Entry-point group that components of the role register in.
        base: `module:Attr` of the class that they derive from, imported only when something is checked
            against it; None where another rule holds (a loss is a callable).
        hint: Where in a spec it belongs.
    """

    name: str
    group: str
    base: str | None
    hint: str

    @property
    def noun(self) -> str:
        """The name with its article: `an optimizer`."""
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"


def _role(name: str, base: str | None, hint: str, *, plural: str = "") -> Role:
    return Role(name, f"noether.{plural or name + 's'}", base, hint)


ROLES: dict[str, Role] = {
    role.name: role
    for role in (
        _role("callback", "noether.core.callbacks.base:CallbackBase", "[[trainer.callbacks]]"),
        _role("trainer", "noether.training.trainers.base:BaseTrainer", "[trainer]"),
        _role("loss", None, "loss_fn of [trainer]", plural="losses"),
        _role("model", "torch.nn:Module", "[model]"),
        _role("dataset", "torch.utils.data:Dataset", "[datasets.<key>]"),
        _role("transform", "noether.data.transforms.base:Transform", "[[transforms]]"),
        _role("optimizer", "torch.optim:Optimizer", "[model.optimizer]"),
        _role("schedule", "noether.core.optim.schedules.base:Schedule", "schedule of [model.optimizer]"),
        _role("tracker", "noether.core.trackers.base:BaseTracker", "[[trackers]]"),
        _role("initializer", "noether.core.initializers.base:InitializerBase", "[initializer]"),
    )
}
"""The roles of components by name."""

PLUGIN = _role("plugin", None, "use of [plugins], or -p NAME")
"""Run plugins: modules or objects with hooks, no components."""

COMMAND = _role("command", None, "the command line: noether NAME")
"""Subcommands of `noether`."""

GROUPS: dict[str, Role] = {role.group: role for role in (*ROLES.values(), PLUGIN, COMMAND)}
"""Every entry-point group that is read, with its role."""

BUILT_IN = "noether-train"
PLUGIN_PREFIX = "noether-plugin-"


def normal(name: str) -> str:
    """Return the form in which names are compared: case and `-`/`_` don't matter."""
    return name.lower().replace("_", "-")


@dataclass(frozen=True)
class Entry:
    """One name that a distribution registers for a role.

    Attributes:
        role: Name of the role: "callback"; "plugin" for run plugins, "command" for subcommands.
        name: The registered name, a `kind`.
        target: What it names, as `module:Attr`.
        distribution: Name of the distribution.
        version: Its version.
    """

    role: str
    name: str
    target: str
    distribution: str
    version: str

    @property
    def is_built_in(self) -> bool:
        """Whether Noether itself registers it."""
        return normal(self.distribution) == BUILT_IN

    @property
    def origin(self) -> str:
        """The distribution and its version: `noether-train 0.1.0`."""
        return f"{self.distribution} {self.version}"

    @cached_property
    def package(self) -> str:
        """What stands before the slash of a qualified kind: the distribution without `noether-plugin-`."""
        return normal(self.distribution).removeprefix(PLUGIN_PREFIX)

    @property
    def qualified(self) -> str:
        """The kind that no other distribution can claim: `x/grad-norm`."""
        return f"{self.package}/{self.name}"

    @cached_property
    def normal_name(self) -> str:
        """The name as it is compared."""
        return normal(self.name)

    @property
    def class_name(self) -> str:
        """The last part of the target, which is accepted as a kind too: `CheckpointCallback`."""
        return self.target.rpartition(":")[2].rpartition(".")[2]

    @property
    def top_package(self) -> str:
        """The top-level package that holds the target."""
        return self.target.partition(":")[0].partition(".")[0]


@dataclass(frozen=True)
class Component:
    """An imported class (or callable) with the name that it was asked for by.

    Attributes:
        role: Name of its role.
        kind: Canonical kind: a short name, a qualified one (`x/grad-norm`) or a dotted path.
        target: The class, the callable of a loss, or the object of a run plugin.
        entry: The registration, or None for a dotted path that nobody registers.
        distribution: The distribution that it comes from; empty for a project's own code.
        version: The version of that distribution; empty for a project's own code.
    """

    role: str
    kind: str
    target: Any
    entry: Entry | None = None
    distribution: str = ""
    version: str = ""

    @classmethod
    def registered(cls, kind: str, target: Any, entry: Entry) -> Component:
        """Return the component of a registration."""
        return cls(entry.role, kind, target, entry, entry.distribution, entry.version)

    @property
    def origin(self) -> str:
        """Where it comes from: `noether-train 0.1.0`, or `project code`."""
        return f"{self.distribution} {self.version}" if self.distribution else "project code"


@cache
def installed_entries() -> tuple[Entry, ...]:
    """Return every entry of our groups, ordered by role, distribution and name whatever the machine.

    Looked up once per process: a scan reads a file of every installed distribution.
    """
    points = entry_points()
    read = cache(_name_and_version)  # it parses the distribution's metadata, and we register a hundred entries
    found = {
        Entry(role.name, point.name, point.value.partition("[")[0].strip(), *read(point.dist))
        for group, role in GROUPS.items()
        for point in points.select(group=group)
    }
    return tuple(sorted(found, key=lambda entry: (entry.role, entry.distribution, entry.name, entry.target)))


def _name_and_version(distribution: Distribution | None) -> tuple[str, str]:
    """Return what a distribution is called, also where its metadata is damaged."""
    try:
        metadata = {} if distribution is None else distribution.metadata.json
    except FileNotFoundError:  # the backport's finder, where something has imported it, refuses what ours reads
        metadata = {}
    return str(metadata.get("name", "unknown")), str(metadata.get("version", "unknown"))


def is_dotted(kind: str) -> bool:
    """Whether a kind is spelled as a dotted path: `pkg.mod.Class` or `pkg.mod:Class`."""
    return "." in kind or ":" in kind


def matching(entries: Sequence[Entry], kind: str) -> list[Entry]:
    """Return the registrations of one role that a kind means; several where it is contested."""
    if is_dotted(kind):
        return by_target(entries, kind)[:1]
    return by_qualified_name(entries, kind) if "/" in kind else by_short_name(entries, kind)


def by_short_name(entries: Sequence[Entry], kind: str) -> list[Entry]:
    """Return the first match of: built-in names, their classes, plugin names, their classes."""
    name = normal(kind)
    for built_in in (True, False):
        group = [entry for entry in entries if entry.is_built_in is built_in]
        named = [entry for entry in group if entry.normal_name == name]
        if matches := named or [entry for entry in group if normal(entry.class_name) == name]:
            return matches
    return []


def by_qualified_name(entries: Iterable[Entry], kind: str) -> list[Entry]:
    """Return what one distribution, with or without its prefix, registers under a name: `x/grad-norm`."""
    package, _, name = normal(kind).partition("/")
    owned = [entry for entry in entries if package in (entry.package, normal(entry.distribution))]
    return [entry for entry in owned if entry.normal_name == name]


def by_target(entries: Iterable[Entry], path: str) -> list[Entry]:
    """Return the registrations of what a dotted path spells, built-in ones first."""
    path = path.replace(":", ".")
    return _built_in_first(entry for entry in entries if entry.target.replace(":", ".") == path)


def by_object(entries: Iterable[Entry], found: object) -> list[Entry]:
    """Return the registrations that name an imported object, whatever path led to it; imports nothing."""

    def names_it(entry: Entry) -> bool:
        module, _, attribute = entry.target.partition(":")
        imported = sys.modules.get(module)
        return (getattr(imported, attribute, None) if attribute else imported) is found

    return _built_in_first(filter(names_it, entries))


def _built_in_first(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: not entry.is_built_in)


def canonical(entries: Sequence[Entry], entry: Entry, *, qualified: bool = False) -> str:
    """Return the kind that a resolved spec holds: the short name where it means this entry.

    Args:
        entries: All registrations of the role.
        entry: One of them.
        qualified: Whether the spec qualified it on purpose; a plugin's then stays qualified.
    """
    if entry.is_built_in:
        return entry.name
    contested = by_short_name(entries, entry.name) != [entry]
    return entry.qualified if qualified or contested else entry.name


def origin_of(top: str, entries: Iterable[Entry], trust: Trust) -> tuple[str, str]:
    """Return distribution and version of a top-level package; both empty for a project's own code."""
    for entry in entries:
        if entry.top_package == top and top not in ALWAYS_TRUSTED:
            return entry.distribution, entry.version
    if trust.is_project(top):
        return "", ""
    distribution = BUILT_IN if top == "noether" else top
    try:
        return distribution, version(distribution)
    except PackageNotFoundError:
        return "", ""
