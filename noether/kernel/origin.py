"""Which distribution a top-level package comes from, for code that no entry point registers."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from noether.kernel.entry import BUILT_IN, Entry
from noether.kernel.trust import ALWAYS_TRUSTED, Trust


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
