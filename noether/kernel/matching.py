"""Which registrations a `kind` means, by each of its spellings."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from noether.kernel.dotted import is_dotted
from noether.kernel.entry import Entry, normal


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
