"""Understand an older spec as it is: migrate what a layer says in memory, and still find it in the old text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from noether.errors import SpecError
from noether.spec.errors.problem import InvalidSpecError, Problem
from noether.spec.locate import TomlPath
from noether.spec.migrations import migrate_table, newest_version
from noether.spec.read.layers import FileLayer, Layer


def migrated(table: dict[str, Any], layer: Layer) -> dict[str, Any]:
    """Return a table in today's format; the layer notes what was changed, and where that stands in its text.

    Raises:
        InvalidSpecError: The table is in a newer format than is known.
    """
    try:
        today, notes = migrate_table(table)
    except SpecError as error:
        place = layer.place(("spec",))
        problem = Problem(("spec",), error.message, error.hint, (place,) if place else ())
        raise InvalidSpecError([problem], origin=layer.origin) from None
    if notes:
        layer.notes = (f"{layer.origin} is read as spec = {newest_version()}: {'; '.join(notes)}", *_advice(layer))
        layer.moved = _moved(table, today)
    return today


def _advice(layer: Layer) -> tuple[str, ...]:
    if not isinstance(layer, FileLayer):
        return ()
    return (f"noether spec migrate {layer.path} --write brings {layer.path} up to date, and keeps its comments",)


def _moved(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[TomlPath, TomlPath]:
    """Return the former path of each value that has a new one: the only equal value that is no longer where it was."""
    before, after = dict(_leaves(old, ())), dict(_leaves(new, ()))
    gone = {path: value for path, value in before.items() if path not in after}
    moved: dict[TomlPath, TomlPath] = {}
    for path, value in after.items():
        same = [former for former, known in gone.items() if type(known) is type(value) and known == value]
        if path not in before and len(same) == 1:
            moved[path] = same[0]
    return moved


def _leaves(value: Any, path: TomlPath) -> Iterator[tuple[TomlPath, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
    else:
        yield path, value
