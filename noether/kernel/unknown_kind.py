"""The errors for a `kind` that nobody registers, or that two plugins do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from noether.core.utils.nearest import did_you_mean, nearest
from noether.errors import PluginError
from noether.kernel.entry import PLUGIN_PREFIX, Entry, normal
from noether.kernel.roles import ROLES, Role

_SHOWN = 8


def unknown(role: Role, kind: str, entries: Iterable[Entry]) -> PluginError:
    """Return the error for a kind that is registered for no such role: the nearest one, or how to get it."""
    entries = list(entries)
    if "/" in kind:
        return _unknown_qualified(role, kind, entries)
    known = sorted({entry.name for entry in entries if entry.role == role.name}, key=str.lower)
    message = f"unknown {role.name} kind {kind!r}.{did_you_mean(kind, known)}{_listed(kind, known)}"
    return PluginError(message, hint=_elsewhere(role, kind, entries) or _list_command(role), code="unknown-kind")


def conflict(role: Role, kind: str, matches: Sequence[Entry]) -> PluginError:
    """Return the error for a short name that several registrations claim."""
    claims = " and ".join(f"{entry.origin} ({entry.target})" for entry in matches)
    spellings = sorted({entry.qualified for entry in matches})
    way_out = f"write kind = {' or kind = '.join(map(repr, spellings))}" if len(spellings) > 1 else None
    return PluginError(f"{role.name} kind {kind!r} is claimed by {claims}", hint=way_out, code="ambiguous-kind")


def _unknown_qualified(role: Role, kind: str, entries: Sequence[Entry]) -> PluginError:
    package = normal(kind).partition("/")[0]
    owned = [entry for entry in entries if package in (entry.package, normal(entry.distribution))]
    if not owned:
        name = f"{PLUGIN_PREFIX}{package.removeprefix(PLUGIN_PREFIX)}"
        return PluginError(
            f"unknown {role.name} kind {kind!r}: no plugin {name} is installed",
            hint=f"pip install {name}",
            code="unknown-kind",
        )
    known = sorted(entry.qualified for entry in owned if entry.role == role.name)
    message = f"unknown {role.name} kind {kind!r}: {owned[0].origin} has no such {role.name}."
    return PluginError(
        f"{message}{did_you_mean(kind, known)}{_listed(kind, known)}", hint=_list_command(role), code="unknown-kind"
    )


def _listed(kind: str, known: Sequence[str]) -> str:
    """Return a few known kinds to append, unless one is so near that a list would only distract."""
    if not known or nearest(kind, known):
        return ""
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return f" Known: {', '.join(known[:_SHOWN])}{more}."


def _elsewhere(role: Role, kind: str, entries: Iterable[Entry]) -> str | None:
    """Return where a kind that exists for another role belongs."""
    for entry in entries:
        if entry.role in ROLES and entry.role != role.name and entry.normal_name == normal(kind):
            other = ROLES[entry.role]
            return f"'{entry.name}' is {other.noun}; it belongs in {other.hint}"
    return None


def _list_command(role: Role) -> str:
    return f"noether plugins list --role {role.name}"
