"""Bring an older spec up to the format of today, one version after the other.

A migration edits a table in place by plain keys, so that the same function serves a `dict` in memory and the
`tomlkit` document of a file whose comments have to stay.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from types import ModuleType
from typing import Any

from noether.errors import SpecError, UsageError

Table = MutableMapping[str, Any]


@dataclass(frozen=True)
class Migration:
    """The step from one version of the format to the next.

    Attributes:
        summary: What the step does, for the note that a user reads: "trainer.epochs is now trainer.max_epochs".
        apply: Edits the table in place; returns whether there was anything to edit.
    """

    summary: str
    apply: Callable[[Table], bool]


MIGRATIONS: tuple[Migration, ...] = ()
"""The steps in order: the first leads from `spec = 1` to `spec = 2`."""


def newest_version() -> int:
    """Return the version of the format that this Noether writes."""
    return 1 + len(MIGRATIONS)


def migrate_table(table: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a table in today's format, and a note on each thing that was changed; the given one stays.

    Raises:
        SpecError: The table is in a newer format than is known.
    """
    if not pending(table):
        return table, []
    migrated = copy.deepcopy(table)
    return migrated, _apply(migrated)


def migrate_text(text: str) -> tuple[str, list[str]]:
    """Return a file's text in today's format, its comments and order kept, and a note on each change.

    Raises:
        SpecError: The text is in a newer format than is known.
        UsageError: The package that edits TOML is not installed.
    """
    document = _tomlkit().parse(text)
    notes = _apply(document)
    return document.as_string(), notes


def pending(table: Table) -> Sequence[Migration]:
    """Return the steps that a table still has to take; one without a version is in the first format.

    What is no version is left to validation.

    Raises:
        SpecError: The table is in a newer format than is known.
    """
    found = table.get("spec", 1)
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        return ()
    if found > newest_version():
        raise SpecError(
            f"spec = {found} is a newer format than this Noether knows: {version('noether-train')} reads up to "
            f"spec = {newest_version()}",
            hint="pip install --upgrade noether-train",
        )
    return MIGRATIONS[found - 1 :]


def _apply(table: Table) -> list[str]:
    steps = pending(table)
    notes = [step.summary for step in steps if step.apply(table)]
    if steps:
        table["spec"] = newest_version()
    return notes


def _tomlkit() -> ModuleType:
    try:
        import tomlkit
    except ImportError as error:
        raise UsageError("editing a spec needs tomlkit, which is not installed", hint="pip install tomlkit") from error
    return tomlkit
