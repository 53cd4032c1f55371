"""Registry: from the `kind` in a spec to the class that it names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

from noether.kernel import unknown_kind
from noether.kernel.component import Component as Component
from noether.kernel.dotted import is_dotted, resolve_dotted
from noether.kernel.entry import Entry as Entry
from noether.kernel.importing import import_entry
from noether.kernel.matching import by_object, canonical, matching
from noether.kernel.origin import origin_of
from noether.kernel.role_check import check_role
from noether.kernel.roles import GROUPS, Role
from noether.kernel.scan import installed_entries
from noether.kernel.trust import Trust

_ROLES: dict[str, Role] = {role.name: role for role in GROUPS.values()}


class Registry:
    """Finds components by kind; only `load` imports, and only what is asked for.

    Args:
        entries: Everything that is registered.
        trusted: Top-level packages that dotted paths may import besides our own, torch's and the plugins'.
        project_folders: Folders whose own code dotted paths may import.
        data_folders: Folders in which nothing is code.
    """

    def __init__(
        self,
        entries: Iterable[Entry],
        *,
        trusted: Iterable[str] = (),
        project_folders: Iterable[Path] = (),
        data_folders: Iterable[Path] = (),
    ) -> None:
        self._entries = tuple(entries)
        plugins = {entry.top_package for entry in self._entries if not entry.is_built_in}
        self._trust = Trust([*trusted, *plugins], project_folders, data_folders)
        self._loaded: dict[tuple[str, str], Component] = {}

    @classmethod
    def installed(
        cls, trusted: Iterable[str] = (), project_folders: Iterable[Path] = (), data_folders: Iterable[Path] = ()
    ) -> Registry:
        """Return a registry of everything that is installed, read from metadata once per process."""
        return cls(installed_entries(), trusted=trusted, project_folders=project_folders, data_folders=data_folders)

    def entries(self, role: str | None = None) -> tuple[Entry, ...]:
        """Return what is registered, for one role or for all ("plugin" and "command" included)."""
        return tuple(entry for entry in self._entries if role is None or entry.role == role)

    def find(self, role: str, kind: str) -> Entry:
        """Return the registration that a kind means; imports nothing.

        A dotted path is found where it is spelled as the target of a registration.

        Raises:
            PluginError: The kind is unknown, or two plugins claim it.
        """
        matches = matching(self.entries(role), kind)
        if not matches:
            raise unknown_kind.unknown(_ROLES[role], kind, self._entries)
        if len({(match.distribution, match.target) for match in matches}) > 1:
            raise unknown_kind.conflict(_ROLES[role], kind, matches)
        return matches[0]

    def load(self, role: str, kind: str) -> Component:
        """Import what a kind names and check that it can play the role.

        Raises:
            PluginError: The kind is unknown, contested or not trusted, fails to import, or is of another
                role.
        """
        key = (role, kind)
        if key not in self._loaded:
            component = self._load_dotted(role, kind) if is_dotted(kind) else self._load_entry(role, kind)
            check_role(_ROLES[role], kind, component.target, self.entries(role))
            self._loaded[key] = component
        return self._loaded[key]

    def _load_entry(self, role: str, kind: str) -> Component:
        entry = self.find(role, kind)
        name = canonical(self.entries(role), entry, qualified="/" in kind)
        return Component.registered(name, import_entry(entry), entry)

    def _load_dotted(self, role: str, kind: str) -> Component:
        """Resolve a dotted path; where it is another spelling of something registered, it is that."""
        target = resolve_dotted(kind, self._trust)
        entries = self.entries(role)
        for entry in by_object(entries, target):
            return Component.registered(canonical(entries, entry), target, entry)
        top = kind.replace(":", ".").partition(".")[0]
        return Component(role, kind, target, None, *origin_of(top, self._entries, self._trust))


@cache
def _installed() -> Registry:
    return Registry.installed()


_active: ContextVar[Registry | None] = ContextVar("noether_registry", default=None)


def active_registry() -> Registry:
    """Return the registry that specs are resolved with: one set by `use_registry`, else what is installed."""
    return _active.get() or _installed()


@contextmanager
def use_registry(registry: Registry) -> Iterator[Registry]:
    """Resolve specs with `registry` inside the `with` block: a run's trust, or a test's own components."""
    token = _active.set(registry)
    try:
        yield registry
    finally:
        _active.reset(token)
