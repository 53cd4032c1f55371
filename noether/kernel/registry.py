"""Registry: from the `kind` in a spec to the class that it names."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from noether.errors import PluginError
from noether.kernel.entries import (
    BUILT_IN,
    COMMAND,
    PLUGIN,
    PLUGIN_PREFIX,
    ROLE_OF,
    ROLES,
    TABLE,
    Component,
    Entry,
    Role,
    by_object,
    canonical,
    installed_entries,
    is_dotted,
    matching,
    normal,
    require_version,
)
from noether.kernel.importing import described, explained, import_entry, import_file, resolve_dotted
from noether.kernel.names import did_you_mean, listed, nearest
from noether.kernel.roles import check_role, roles_that_fit
from noether.kernel.trust import ALWAYS_TRUSTED, Trust, lies_in_libraries

_SHOWN = 8  # kinds in a message
_ROLES_HINT = f"roles are {', '.join(ROLES)}, and plugin (functions marked with @noether.hookimpl)"


def unknown(role: Role, kind: str, entries: Iterable[Entry]) -> PluginError:
    """Return the error for a kind that is not registered for a role, with the nearest one or the way to get it."""
    entries = list(entries)
    if "/" in kind:
        return _unknown_qualified(role, kind, entries)
    known = sorted({entry.name for entry in entries if entry.role == role.name}, key=str.lower)
    message = f"unknown {role.named(kind)}.{did_you_mean(kind, known)}{_listed(kind, known)}"
    return PluginError(message, hint=_elsewhere(role, kind, entries) or _list_command(role), code="unknown-kind")


def conflict(role: Role, kind: str, matches: Sequence[Entry]) -> PluginError:
    """Return the error for a short name that several registrations claim."""
    claims = " and ".join(f"{entry.origin} ({entry.target})" for entry in matches)
    spellings = sorted({entry.qualified for entry in matches})
    before = {"command": "noether ", "plugin": "-p "}.get(role.name, "kind = ")
    written = [f"{before}{name!r}" if role.name in ROLES else f"{before}{name}" for name in spellings]
    hint = f"write {' or '.join(written)}" if len(spellings) > 1 else None
    return PluginError(f"{role.named(kind)} is claimed by {claims}", hint=hint, code="ambiguous-kind")


def _unknown_qualified(role: Role, kind: str, entries: Sequence[Entry]) -> PluginError:
    package = normal(kind).partition("/")[0]
    owned = [entry for entry in entries if package in (entry.package, normal(entry.distribution))]
    if not owned:
        name = f"{PLUGIN_PREFIX}{package.removeprefix(PLUGIN_PREFIX)}"
        return PluginError(
            f"unknown {role.named(kind)}: no plugin {name} is installed",
            hint="install the package that registers it; noether plugins list shows the installed ones",
            code="unknown-kind",
        )
    known = sorted(entry.qualified for entry in owned if entry.role == role.name)
    message = f"unknown {role.named(kind)}: {owned[0].origin} has no such {role.name}."
    return PluginError(
        f"{message}{did_you_mean(kind, known)}{_listed(kind, known)}", hint=_list_command(role), code="unknown-kind"
    )


def _listed(kind: str, known: Sequence[str]) -> str:
    """Return a few known kinds to append to a message that suggests none."""
    if not known or nearest(kind, known):
        return ""
    return f" Known: {listed(known, _SHOWN)}."


def _elsewhere(role: Role, kind: str, entries: Iterable[Entry]) -> str | None:
    """Return a hint with the place of a kind that exists for another role."""
    for entry in entries:
        if entry.role in ROLES and entry.role != role.name and entry.normal_name == normal(kind):
            other = ROLES[entry.role]
            return f"'{entry.name}' is {other.noun}; it belongs in {other.hint}"
    return None


def _list_command(role: Role) -> str:
    return f"noether plugins list --role {role.name}"


LOCAL_PLUGIN = "noether_plugin"
"""Name of the run plugin in the file `noether_plugin.py`, beside the spec or in the working folder."""


class Registry:
    """Finds components by kind; only `load` imports, and only the requested component.

    Args:
        entries: Everything that is registered.
        trusted: Top-level packages that dotted paths may import besides our own, torch's and the plugins'.
        project_folders: Folders whose own code dotted paths may import.
        data_folders: Folders beside run folders in which nothing is code.
        plugin_folders: Folders in which `noether_plugin.py` is looked for, in order; by default the project folders.
        written_in_python: Dotted kinds that Python code wrote, trusted as they are, and objects that it passed, by the
            kind that stands for them.
    """

    def __init__(
        self,
        entries: Iterable[Entry],
        *,
        trusted: Iterable[str] = (),
        project_folders: Iterable[Path] = (),
        data_folders: Iterable[Path] = (),
        plugin_folders: Iterable[Path] | None = None,
        written_in_python: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._entries = tuple(entries)
        plugins = {entry.top_package for entry in self._entries if not entry.is_built_in}
        self._projects = [Path(folder) for folder in project_folders]
        self._plugin_folders = list(dict.fromkeys(self._projects if plugin_folders is None else plugin_folders))
        self._trust = Trust([*trusted, *plugins], self._projects, data_folders)
        self._written_in_python = dict(written_in_python)
        self._loaded: dict[tuple[str, str, str | None], Component] = {}

    @classmethod
    def installed(cls, **options: Any) -> Registry:
        """Return the registry of all installed distributions, whose metadata is read once per process."""
        return cls(installed_entries(), **options)

    def entries(self, role: str | None = None) -> tuple[Entry, ...]:
        """Return the registrations of one role, or of all ("plugin" and "command" included)."""
        return tuple(entry for entry in self._entries if role is None or entry.role == role)

    def find(self, role: str, kind: str) -> Entry:
        """Return the registration that a kind means; imports nothing.

        A dotted path is found if it is spelled as the target of a registration.

        Raises:
            PluginError: if the kind is unknown, or two plugins claim it.
        """
        matches = matching(self.entries(role), kind)
        if not matches:
            raise unknown(ROLE_OF[role], kind, self._entries)
        if len({(match.distribution, match.target) for match in matches}) > 1:
            raise conflict(ROLE_OF[role], kind, matches)
        return matches[0]

    def load(self, role: str, kind: str, *, author: str | None = None) -> Component:
        """Import the object that a kind names and check that it can play the role.

        Args:
            role: The role.
            kind: The kind.
            author: Package of the Python code that wrote the kind, which may name its own code; None for a spec.

        Raises:
            PluginError: if the kind is unknown, contested or not trusted, needs another version of Noether, fails to
                import, or has another role.
        """
        key = (role, kind, author)  # what Python may name, the text of a spec may not
        if key not in self._loaded:
            if role == PLUGIN.name and kind == LOCAL_PLUGIN:
                component = self._load_local()
            else:
                component = self._load_dotted(role, kind, author) if is_dotted(kind) else self._load_entry(role, kind)
            check_role(ROLE_OF[role], kind, component, self.entries(role))
            self._loaded[key] = component
        return self._loaded[key]

    def component(self, role: str, target: Any) -> Component:
        """Return the component of a class or function that Python code passes in place of its kind.

        Raises:
            PluginError: if it does not fit the role.
        """
        kind = kind_of(target)
        self._require_version(kind)
        component = self._component(role, kind, target)
        check_role(ROLE_OF[role], component.kind, component, self.entries(role))
        return component

    def command(self, name: str) -> Any:
        """Import the subcommand `name`: a function, a typer app or a click command.

        Built-in verbs are not registered here: a plugin's command that has the name of one is reached by its qualified
        name, `x/run`.

        Raises:
            PluginError: if no plugin or more than one registers it, or it fails to import or cannot be called.
        """
        entry = self.find(COMMAND.name, name)
        return self.load(COMMAND.name, entry.qualified).target

    def roles_of(self, kind: str) -> list[str]:
        """Return the roles that have a kind; a dotted path is imported and has the roles that its object fits.

        Raises:
            PluginError: if no role has it; for a dotted path, if it is not trusted or fails to import.
        """
        if is_dotted(kind):
            from noether.kernel.hookspecs import has_implementations  # with pluggy, which listing kinds does not need

            found = resolve_dotted(kind, self._trust)
            roles = roles_that_fit(found)
            if not roles and not inspect.isclass(found) and has_implementations(found):
                roles = [PLUGIN.name]
            if not roles:
                raise PluginError(
                    f"kind {kind!r} names {described(found)}, which fits no role", hint=_ROLES_HINT, code="wrong-role"
                )
            return roles
        roles = [role for role in (*ROLES, PLUGIN.name, TABLE.name) if matching(self.entries(role), kind)]
        if not roles and kind == LOCAL_PLUGIN:
            roles = [PLUGIN.name]
        if not roles:
            names = [entry.name for entry in self._entries]
            message = f"unknown kind {kind!r}: no role has it.{did_you_mean(kind, names)}"
            raise PluginError(message, hint="list what is installed: noether plugins list", code="unknown-kind")
        return roles

    @property
    def local_plugin(self) -> Path | None:
        """The file `noether_plugin.py` that a spec would use; None if there is none."""
        files = (folder / f"{LOCAL_PLUGIN}.py" for folder in self._plugin_folders)
        return next(filter(self._trust.is_own_file, files), None)

    def _load_entry(self, role: str, kind: str) -> Component:
        entry = self.find(role, kind)
        require_version(entry)
        name = canonical(self.entries(role), entry, qualified="/" in kind)
        return Component.registered(name, import_entry(entry), entry)

    def _load_local(self) -> Component:
        """Import `noether_plugin.py` from the first of its folders that has it."""
        file = self.local_plugin
        if file is None:
            if matching(self.entries(PLUGIN.name), LOCAL_PLUGIN):
                return self._load_entry(PLUGIN.name, LOCAL_PLUGIN)
            raise PluginError(
                f"unknown run plugin '{LOCAL_PLUGIN}': found no file {LOCAL_PLUGIN}.py"
                f"{' in ' * bool(self._plugin_folders)}{' or '.join(map(str, self._plugin_folders))}",
                hint="put it beside the spec; nothing in a run folder is code",
                code="unknown-kind",
            )
        if others := matching(self.entries(PLUGIN.name), LOCAL_PLUGIN):
            raise PluginError(
                f"run plugin '{LOCAL_PLUGIN}' is claimed by {file} and {others[0].origin}",
                hint=f"rename the file, and name it as a module of the project; or write {others[0].qualified}",
                code="ambiguous-kind",
            )
        if self._trust.would_import(LOCAL_PLUGIN, file):  # kinds may name it too: one file, one module
            module = resolve_dotted(LOCAL_PLUGIN, self._trust)
        else:
            module = explained(f"{file}", partial(import_file, LOCAL_PLUGIN, file))
        real, project = file.resolve(), next(iter(self._projects), file.parent).resolve()
        place = real.relative_to(project) if real.is_relative_to(project) else real
        return Component(PLUGIN.name, LOCAL_PLUGIN, module, place=place.as_posix())

    def _load_dotted(self, role: str, kind: str, author: str | None) -> Component:
        """Resolve a dotted path; one that is another spelling of a registration becomes that."""
        self._require_version(kind)
        written = self._written_in_python.get(kind)
        if written is None:
            top = kind.replace(":", ".").partition(".")[0]
            is_own = kind in self._written_in_python or (author is not None and author == top)
            written = resolve_dotted(kind, self._trust.also(top) if is_own else self._trust)
        return self._component(role, kind, written)

    def _require_version(self, path: str) -> None:
        """Check the version of Noether for the plugin that holds a dotted path."""
        top = path.replace(":", ".").partition(".")[0]
        for entry in self._entries:
            if entry.needs and entry.top_package == top and not entry.is_built_in:
                require_version(entry)

    def _component(self, role: str, kind: str, target: Any) -> Component:
        entries = self.entries(role)
        for entry in by_object(entries, target):
            return Component.registered(canonical(entries, entry), target, entry)
        top = kind.replace(":", ".").partition(".")[0]
        return Component(role, kind, target, None, *_origin_of(top, self._entries, self._trust))


def kind_of(target: Any) -> str:
    """Return the dotted kind that names a class or function: its module and its name there.

    That of a lambda, a partial or a local function holds a `<`, so that no spec can find another object by it.
    """
    if isinstance(target, partial):
        return f"{kind_of(target.func)}.<partial>"
    return f"{target.__module__}.{getattr(target, '__qualname__', type(target).__qualname__)}"


def _origin_of(top: str, entries: Iterable[Entry], trust: Trust) -> tuple[str, str]:
    """Return distribution and version of a top-level package; both empty for a project's own code."""
    for entry in entries:
        if entry.top_package == top and top not in ALWAYS_TRUSTED:
            return entry.distribution, entry.version
    if trust.is_project(top):
        return "", ""
    distribution = BUILT_IN if top == "noether" else _distribution_of(top)
    try:
        return distribution, version(distribution)
    except PackageNotFoundError:
        return "", ""


@cache
def _distribution_of(package: str) -> str:
    """Return the distribution that holds a package, which may have another name: `neuralop` is of neuraloperator."""
    try:
        version(package)
    except PackageNotFoundError:
        is_installed = lies_in_libraries(package)  # other packages may hold a top-level `tests` too
        return next(iter(packages_distributions().get(package, ())), package) if is_installed else package
    return package


@cache
def _installed(folder: Path) -> Registry:
    return Registry.installed(project_folders=(folder,))


_active: ContextVar[Registry | None] = ContextVar("noether_registry", default=None)


def active_registry() -> Registry:
    """Return the registry that kinds are resolved with: that of `use_registry`, else the installed one.

    The latter serves Python code outside of a run; it finds the code of the working folder as well.
    """
    return _active.get() or _installed(Path.cwd())


@contextmanager
def use_registry(registry: Registry) -> Iterator[Registry]:
    """Resolve specs with `registry` inside the `with` block: a run's trust, or a test's own components."""
    token = _active.set(registry)
    try:
        yield registry
    finally:
        _active.reset(token)
