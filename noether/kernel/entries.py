"""Entries: the names registered in entry-point groups, and the roles of components."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import Distribution, EntryPoint, EntryPoints, distributions, entry_points, version
from typing import Any, NamedTuple

from noether.errors import PluginError, error_text


class Role(NamedTuple):
    """A role that components play in a spec.

    Attributes:
        name: Singular name: `callback`.
        group: Entry-point group that components of the role register in.
        base: `module:Attr` of the class that they derive from, imported only when something is checked
            against it; None if another rule holds (a loss and a collator are callables).
        hint: Its place in a spec.
    """

    name: str
    group: str
    base: str | None
    hint: str

    def named(self, kind: str) -> str:
        """Return a kind as errors name it: `callback kind 'ema'`, `run plugin 'hello'`, `command 'greet'`."""
        return f"{_NOUNS.get(self.name, f'{self.name} kind')} {kind!r}"

    @property
    def noun(self) -> str:
        """The name with its article: `an optimizer`."""
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"


_NOUNS = {"plugin": "run plugin", "command": "command", "table": "table"}


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
        _role("collator", None, "collate of [datasets.<key>]"),
        _role("transform", "noether.data.transforms:Transform", "[[transforms]]"),
        _role("optimizer", "torch.optim:Optimizer", "[model.optimizer]"),
        _role("schedule", "noether.optim.schedules:Schedule", "schedule of [model.optimizer]"),
        _role("tracker", "noether.metrics.tracker:BaseTracker", "[[trackers]]"),
        _role("initializer", "noether.core.initializers.weights:InitializerBase", "[initializer]"),
    )
}
"""The roles of components by name."""

PLUGIN = _role("plugin", None, "use of [plugins], or -p NAME")
"""Run plugins: modules or objects with hooks; not components."""

COMMAND = _role("command", None, "the command line: noether NAME")
"""Subcommands of `noether`."""

TABLE = _role("table", "noether.config.components:SpecTable", "[NAME]")
"""Tables that a spec has beside Noether's own; an entry point names the class of the table `[NAME]`."""

GROUPS: dict[str, Role] = {role.group: role for role in (*ROLES.values(), PLUGIN, COMMAND, TABLE)}
"""The entry-point groups, with their roles."""

ROLE_OF: dict[str, Role] = {role.name: role for role in GROUPS.values()}
"""The roles by name, those of run plugins and commands among them."""

BUILT_IN = "noether-train"
PLUGIN_PREFIX = "noether-plugin-"


def normal(name: str) -> str:
    """Return the form in which names are compared: without differences of case and of `-`/`_`."""
    return name.lower().replace("_", "-")


def way_out(distribution: str) -> str | None:
    """Return the remedy for a defect of a third party's distribution; None for Noether's own and for project code."""
    if normal(distribution) in ("", BUILT_IN):
        return None
    return f"try another version of it, python -m pip install --upgrade {distribution}, or tell its authors"


@dataclass(frozen=True)
class Entry:
    """One name that a distribution registers for a role.

    Attributes:
        role: Name of the role: "callback"; "plugin" for run plugins, "command" for subcommands.
        name: The registered name, a `kind`.
        target: The registered object, as `module:Attr`.
        distribution: Name of the distribution.
        version: Its version.
        needs: Requirements on Noether in its metadata: `noether-train>=0.1,<0.2`.
        summary: The line that describes the distribution.
    """

    role: str
    name: str
    target: str
    distribution: str
    version: str
    needs: tuple[str, ...] = ()
    summary: str = ""

    @property
    def is_built_in(self) -> bool:
        """Return True if Noether itself registers it."""
        return normal(self.distribution) == BUILT_IN

    @property
    def origin(self) -> str:
        """The distribution and its version: `noether-train 0.1.0`."""
        return f"{self.distribution} {self.version}"

    @cached_property
    def package(self) -> str:
        """The part of a qualified kind before the slash: the distribution without `noether-plugin-`."""
        return normal(self.distribution).removeprefix(PLUGIN_PREFIX)

    @property
    def qualified(self) -> str:
        """The kind that no other distribution can claim: `x/grad-norm`."""
        return f"{self.package}/{self.name}"

    @cached_property
    def normal_name(self) -> str:
        """The name in the form in which names are compared."""
        return normal(self.name)

    @property
    def class_name(self) -> str:
        """The last part of the target, which is accepted as a kind too: `CheckpointCallback`."""
        return self.target.rpartition(":")[2].rpartition(".")[2]

    @property
    def top_package(self) -> str:
        """The top-level package that holds the target."""
        return self.target.partition(":")[0].partition(".")[0]


class Component(NamedTuple):
    """The object that a `kind` resolves to, with its kind and its origin.

    Attributes:
        role: Name of its role.
        kind: Canonical kind: a short name, a qualified one (`x/grad-norm`) or a dotted path.
        target: The class, the callable of a loss, or the object of a run plugin.
        entry: The registration; None for a dotted path that is not registered.
        distribution: Its distribution; empty for a project's own code.
        version: The version of that distribution; empty for a project's own code.
        place: Path of a local run plugin, relative to its project if it lies there; else empty.
    """

    role: str
    kind: str
    target: Any
    entry: Entry | None = None
    distribution: str = ""
    version: str = ""
    place: str = ""

    @classmethod
    def registered(cls, kind: str, target: Any, entry: Entry) -> Component:
        """Return the component of a registration."""
        return cls(entry.role, kind, target, entry, entry.distribution, entry.version)

    @property
    def origin(self) -> str:
        """The distribution and its version, the file of a local run plugin, or `project code`."""
        return f"{self.distribution} {self.version}" if self.distribution else self.place or "project code"


@cache
def installed_entries() -> tuple[Entry, ...]:
    """Return the entries of all installed distributions, in the same order on every machine."""
    found = _entries_of(GROUPS.values())
    return tuple(sorted(found, key=lambda entry: (entry.role, entry.distribution, entry.name, entry.target)))


@cache
def installed_commands() -> tuple[Entry, ...]:
    """Return the subcommands that plugins register, by name."""
    return tuple(sorted(_entries_of([COMMAND]), key=lambda entry: (entry.name, entry.distribution)))


def _entries_of(roles: Iterable[Role]) -> set[Entry]:
    """Scan all installed distributions, which reads a file of each."""
    points: Any  # its class differs between versions of Python
    try:
        points = entry_points()
    except Exception:  # of one distribution, which must not hide the others
        points = EntryPoints(point for _, found in _each_distribution() if isinstance(found, list) for point in found)
    read = cache(_facts_of)  # it parses the distribution's metadata, and we register a hundred entries
    return {
        Entry(role.name, point.name, point.value.partition("[")[0].strip(), *read(point.dist))
        for role in roles
        for point in points.select(group=role.group)
    }


_UNKNOWN = "unknown"


def _each_distribution() -> Iterator[tuple[str, list[EntryPoint] | Exception]]:
    """Yield the origin of each distribution with its entry points, or with the error of reading them."""
    seen = set()
    for distribution in distributions():
        name, its_version, *_ = _facts_of(distribution)
        if normal(name) in seen and name != _UNKNOWN:  # a later folder of sys.path has another copy
            continue
        seen.add(normal(name))
        try:
            yield f"{name} {its_version}", list(distribution.entry_points)
        except Exception as error:
            yield f"{name} {its_version}", error


def unreadable_distributions() -> dict[str, str]:
    """Return the error of each distribution whose entry points cannot be read, by its origin."""
    try:
        entry_points()
    except Exception:
        found = dict(_each_distribution())
        return {origin: error_text(error) for origin, error in found.items() if isinstance(error, Exception)}
    return {}


def _facts_of(distribution: Distribution | None) -> tuple[str, str, tuple[str, ...], str]:
    """Return name, version, requirements on Noether and summary of a distribution, also if its metadata is damaged."""
    try:
        metadata = {} if distribution is None else distribution.metadata.json
    except Exception:  # no file, no text, or refused by the finder of importlib_metadata, once that is imported
        metadata = {}
    needs = (text for text in metadata.get("requires_dist", ()) if _project(text) == BUILT_IN)
    folder = str(getattr(getattr(distribution, "_path", None), "stem", ""))  # x_y-1.2.dist-info
    stem, _, release = folder.replace("_", "-").rpartition("-")
    name, its_version = metadata.get("name") or stem or _UNKNOWN, metadata.get("version") or release or _UNKNOWN
    return str(name), str(its_version), tuple(needs), str(metadata.get("summary", ""))


def _project(requirement: str) -> str:
    """Return the name in a requirement in the form that package indexes compare: `Noether.Train >= 1` names ours."""
    name = re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


class Unmet(NamedTuple):
    """A requirement of a distribution on Noether that the installed version does not meet.

    Attributes:
        requirement: The requirement: `noether-train>=7`.
        found: The installed version of Noether.
        remedy: The pip line that mends it.
        is_old: True if the distribution is too old for this Noether, False if it needs a later one.
    """

    requirement: str
    found: str
    remedy: str
    is_old: bool


@cache
def unmet(distribution: str, needs: tuple[str, ...]) -> Unmet | None:
    """Return the first requirement on Noether that does not hold; None if all do, those of extras aside.

    Args:
        distribution: Name of the distribution that needs it.
        needs: Its requirements, as an entry has them.
    """
    if not needs:
        return None
    from packaging.requirements import Requirement
    from packaging.version import Version

    ours = version(BUILT_IN)
    upgrade = f"python -m pip install --upgrade {distribution}"
    for text in needs:
        try:
            wanted = Requirement(text)
            if (wanted.marker and not wanted.marker.evaluate()) or wanted.specifier.contains(ours, prereleases=True):
                continue
            lower = [
                one.version.removesuffix(".*")
                for one in wanted.specifier
                if one.operator in (">", ">=", "~=", "==") and not one.contains(ours, prereleases=True)
            ]
            needs_later = any(Version(each) >= Version(ours) for each in lower)
        except ValueError:  # of the requirement, its marker or its version
            return Unmet(text, ours, upgrade, is_old=True)
        requirement = f"{BUILT_IN}{wanted.specifier}"
        remedy = f'python -m pip install "{requirement}"' if needs_later else upgrade
        return Unmet(requirement, ours, remedy, is_old=not needs_later)
    return None


def require_version(entry: Entry) -> None:
    """Check that the installed Noether is one that the distribution of an entry asks for.

    Raises:
        PluginError: if it is another; the hint is the pip line that mends it.
    """
    if (wrong := unmet(entry.distribution, entry.needs)) is not None:
        raise PluginError(
            f"{ROLE_OF[entry.role].named(entry.name)} of {entry.origin} needs {wrong.requirement}: found "
            f"{BUILT_IN} {wrong.found}",
            hint=wrong.remedy,
            code="other-version",
        )


def is_dotted(kind: str) -> bool:
    """Return True if a kind is spelled as a dotted path: `pkg.mod.Class` or `pkg.mod:Class`."""
    return "." in kind or ":" in kind


def matching(entries: Sequence[Entry], kind: str) -> list[Entry]:
    """Return the registrations of one role that a kind means; several if it is contested."""
    if is_dotted(kind):
        return by_target(entries, kind)[:1]
    return by_qualified_name(entries, kind) if "/" in kind else by_short_name(entries, kind)


def by_short_name(entries: Sequence[Entry], kind: str) -> list[Entry]:
    """Return the first match of: built-in names, their classes, plugin names, their classes.

    Run plugins and commands have no classes: the last part of their target, such as `app`, is not a name of theirs.
    """
    name = normal(kind)
    for built_in in (True, False):
        group = [entry for entry in entries if entry.is_built_in is built_in]
        named = [entry for entry in group if entry.normal_name == name]
        if matches := named or [e for e in group if e.role in ROLES and normal(e.class_name) == name]:
            return matches
    return []


def by_qualified_name(entries: Iterable[Entry], kind: str) -> list[Entry]:
    """Return the registrations of one distribution, named with or without its prefix: `x/grad-norm`."""
    package, _, name = normal(kind).partition("/")
    owned = [entry for entry in entries if package in (entry.package, normal(entry.distribution))]
    return [entry for entry in owned if entry.normal_name == name]


def by_target(entries: Iterable[Entry], path: str) -> list[Entry]:
    """Return the registrations whose target a dotted path spells, built-in ones first."""
    path = path.replace(":", ".")
    return _built_in_first(entry for entry in entries if entry.target.replace(":", ".") == path)


def by_object(entries: Iterable[Entry], found: object) -> list[Entry]:
    """Return the registrations of an imported object, at whichever path it was found; imports nothing."""

    def names_it(entry: Entry) -> bool:
        module, _, attribute = entry.target.partition(":")
        imported = sys.modules.get(module)
        return (getattr(imported, attribute, None) if attribute else imported) is found

    return _built_in_first(filter(names_it, entries))


def _built_in_first(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: not entry.is_built_in)


def canonical(entries: Sequence[Entry], entry: Entry, *, qualified: bool = False) -> str:
    """Return the kind that a resolved spec holds: the short name if it means this entry, else the qualified one.

    Args:
        entries: All registrations of the role.
        entry: One of them.
        qualified: True if the spec has the qualified name; that of a plugin then stays qualified.
    """
    if entry.is_built_in:
        return entry.name
    contested = by_short_name(entries, entry.name) != [entry]
    return entry.qualified if qualified or contested else entry.name
