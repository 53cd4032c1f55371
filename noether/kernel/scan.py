"""What is installed: one look at the metadata of all distributions, importing none of them."""

from __future__ import annotations

from functools import cache
from importlib.metadata import Distribution, entry_points

from noether.kernel.entry import Entry
from noether.kernel.roles import GROUPS


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
