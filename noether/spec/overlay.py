"""Overlays, small specs that extend another one, and the differences between two specs, key by key."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from noether.errors import SpecError, StorageError, UsageError
from noether.spec.errors.problem import InvalidSpecError
from noether.spec.errors.words import toml_key
from noether.spec.fields import item_ids, role_of_items
from noether.spec.load import LoadedSpec, load_spec
from noether.spec.model import resolved_tables
from noether.spec.read.overrides import ItemId, parse_path

_NOT_SETTINGS = ("resolved", "extends")
"""Keys about the sources of a spec, which do not change the run."""
_ORDER, _KIND = " (order)", ".kind"


class _Absent:
    """Value of a key that one of two specs does not have."""

    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()


@dataclass(frozen=True)
class Difference:
    """A key with two values.

    Attributes:
        key: The key, as `-s` takes it: `trainer.callbacks[ema].every_n_epochs`.
        left: Its value in the first spec, or `ABSENT`.
        right: Its value in the second.
    """

    key: str
    left: Any
    right: Any


def differences(left: dict[str, Any], right: dict[str, Any]) -> list[Difference]:
    """Return the differences between the resolved tables of two specs, in the order of the first, then of the second.

    Items of an array of tables are compared by id; another order is a difference as well.
    """
    return list(_tables(settings_of(left), settings_of(right), ""))


def differing_settings(specs: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the values of the settings that are not the same in all specs, by key; `ABSENT` if one lacks a key.

    A component that some of the specs lack is one setting, its kind. Its other keys stand beside it only if they differ
    among the specs that have it.

    Args:
        specs: Resolved tables.
    """
    flat = [{leaf.key: leaf for leaf in _leaves(settings_of(spec), "", ())} for spec in specs]
    tables = [{table for leaf in leaves.values() for table in leaf.tables} for leaves in flat]
    kinds = {key.removesuffix(_KIND) for leaves in flat for key in leaves if key.endswith(_KIND)}
    found: dict[str, list[Any]] = {}
    for key in dict.fromkeys(key for leaves in flat for key in leaves):
        values = [leaves[key].value if key in leaves else ABSENT for leaves in flat]
        around = next(leaves[key].tables for leaves in flat if key in leaves)
        if _all_same(_in_common(values) if key.endswith(_ORDER) else values) or _is_no_items(key, values, flat):
            continue
        lacked = next(
            (table for table in around if table in kinds and any(table not in known for known in tables)), None
        )
        if lacked is not None and lacked not in found:
            found[lacked] = [leaves[lacked + _KIND].value if lacked + _KIND in leaves else ABSENT for leaves in flat]
        having = [value for value, known in zip(values, tables, strict=True) if lacked is None or lacked in known]
        if lacked is None or (key != lacked + _KIND and not _all_same(having)):
            found[key] = values
    return found


def _is_no_items(key: str, values: Sequence[Any], flat: Sequence[dict[str, _Leaf]]) -> bool:
    """Return True for a list that is empty in one spec and has items, which are compared themselves, in another."""
    is_empty = all(value is ABSENT or value == [] for value in values)
    return is_empty and any(key + _ORDER in leaves for leaves in flat)


@dataclass(frozen=True)
class _Leaf:
    """A value that is no table, with the keys of the tables around it, the outermost first."""

    key: str
    value: Any
    tables: tuple[str, ...]


def _leaves(value: Any, path: str, tables: tuple[str, ...], name: str = "") -> Iterator[_Leaf]:
    if isinstance(value, dict) and value:
        around = (*tables, path) if path else ()
        for key, below in value.items():
            yield from _leaves(below, f"{path}.{toml_key(key)}" if path else toml_key(key), around, key)
    elif _are_items(value, value):
        ids = item_ids(value, role_of_items(name))
        for one, item in zip(ids, value, strict=True):
            yield from _leaves(item, f"{path}[{one}]", tables, name)
        yield _Leaf(f"{path}{_ORDER}", ids, tables)
    else:
        yield _Leaf(path, value, tables)


def _all_same(values: Sequence[Any]) -> bool:
    return all(same_value(values[0], value) for value in values[1:])


def _in_common(orders: Sequence[Any]) -> list[list[str]]:
    """Return the ids that all lists have, in the order of each."""
    known = [ids for ids in orders if isinstance(ids, list)]
    return [[name for name in ids if all(name in others for others in known)] for ids in known]


def value_at(tables: dict[str, Any], path: Sequence[str | ItemId]) -> Any:
    """Return the value at a path, as `parse_path` returns it; `ABSENT` if there is none."""
    value: Any = tables
    for before, part in zip(("", *path), path, strict=False):
        if isinstance(value, dict) and isinstance(part, str) and part in value:
            value = value[part]
            continue
        if not isinstance(value, list):
            return ABSENT
        names = item_ids(value, role_of_items(str(before))) if isinstance(part, ItemId) else map(str, range(len(value)))
        known = dict(zip(names, value, strict=True))
        if (value := known.get(part.id if isinstance(part, ItemId) else part, ABSENT)) is ABSENT:
            return ABSENT
    return value


def settings_of(tables: dict[str, Any], *, flat: bool = False) -> dict[str, Any]:
    """Return the settings of a spec, without the keys about its sources; with `flat` by their whole keys."""
    settings = {key: value for key, value in tables.items() if key not in _NOT_SETTINGS}
    return {leaf.key: leaf.value for leaf in _leaves(settings, "", ())} if flat else settings


def _tables(left: dict[str, Any], right: dict[str, Any], path: str) -> Iterator[Difference]:
    for key in dict.fromkeys((*left, *right)):
        below = f"{path}.{toml_key(key)}" if path else toml_key(key)
        yield from _values(left.get(key, ABSENT), right.get(key, ABSENT), below, key)


def _values(left: Any, right: Any, path: str, key: str) -> Iterator[Difference]:
    if _are(dict, left, right):
        yield from _tables(left, right, path)
    elif _are_items(left, right):
        yield from _items(left, right, path, key)
    elif not same_value(left, right):
        yield Difference(path, left, right)


def _items(left: list[Any], right: list[Any], path: str, key: str) -> Iterator[Difference]:
    role = role_of_items(key)
    by_id = [dict(zip(item_ids(items, role), items, strict=True)) for items in (left, right)]
    for name in dict.fromkeys((*by_id[0], *by_id[1])):
        yield from _values(by_id[0].get(name, ABSENT), by_id[1].get(name, ABSENT), f"{path}[{name}]", key)
    common = [[name for name in ids if name in other] for ids, other in zip(by_id, by_id[::-1], strict=True)]
    if common[0] != common[1]:
        yield Difference(f"{path}{_ORDER}", common[0], common[1])


def _are(kind: type, left: Any, right: Any) -> bool:
    return isinstance(left, kind) and isinstance(right, kind)


def _are_items(left: Any, right: Any) -> bool:
    return _are(list, left, right) and any(isinstance(item, dict) for item in (*left, *right))


def same_value(left: Any, right: Any) -> bool:
    """Return True if two values mean the same: 1 and 1.0 do, true and 1 do not, nan and nan do."""
    if _are(list, left, right):
        return len(left) == len(right) and all(map(same_value, left, right))
    if isinstance(left, bool) is not isinstance(right, bool):
        return False
    return bool(left == right or (left != left and right != right))


MARK = "Written by `noether"
"""Beginning of the first remark of an overlay: only files that begin so are replaced."""


def write_overlay(
    base: LoadedSpec,
    path: Path,
    values: Mapping[str, Any],
    remarks: Sequence[str],
    options: Mapping[str, Any],
) -> Path:
    """Write an overlay, load it, and return its path if it is the spec that was meant.

    Args:
        base: The spec that it extends, loaded from a file.
        path: The file to write.
        values: Values by path.
        remarks: Lines of comments at its beginning, the first with `MARK`.
        options: Overrides, run plugins and trusted packages of both.

    Raises:
        UsageError: if it would replace another file, or a spec there cannot say the same; nothing is left then.
        StorageError: if the disk refuses.
    """
    text = _text(base, path, values, remarks)
    if text is None:
        raise UsageError(
            f"no overlay for {', '.join(values)}: found a path through a list, where a file replaces or adds items",
            hint="give the values with -s",
        )
    require_own(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    if (problem := _difference(base, path, values, options)) is not None:
        path.unlink()
        raise UsageError(
            f"{path} cannot hold the values: {problem}", hint="let --out name a file beside the spec, or use -s"
        )
    return path


def _difference(base: LoadedSpec, path: Path, values: Mapping[str, Any], options: Mapping[str, Any]) -> str | None:
    """Return the reason why an overlay is not its base with these values, or None."""
    try:
        found, expected = load_spec(path, **options), load_spec(base.path or "", **options, set=values)
    except SpecError as error:  # such as a base outside of the project of the file
        return error.problems[0].message if isinstance(error, InvalidSpecError) else error.message
    is_same = resolved_tables(found.spec) == resolved_tables(expected.spec)
    return None if is_same else "an override of the command line changes them"


def require_own(path: Path) -> None:
    """Check that a file may be replaced: it does not exist, or is an overlay.

    Raises:
        UsageError: if it is another file.
        StorageError: if it cannot be read.
    """
    try:
        if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace").partition("\n")[0]:
            raise UsageError(f"{path} exists already, and no measurement wrote it", hint="give another file to --out")
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error


def _text(base: LoadedSpec, path: Path, values: Mapping[str, Any], remarks: Sequence[str]) -> str | None:
    """Return the text of an overlay; None if a path leads through a list."""
    assert base.path is not None, "the spec is a file"
    tables: dict[str, Any] = {"extends": [os.path.relpath(base.path, path.parent)]}
    if all(source.layer.origin == "default" for source in base.origins.of(("name",))):
        tables["name"] = base.spec.name  # else it would be that of this file
    for place, value in values.items():
        table, below = tables, base.document
        *parents, last = parse_path(place)
        for part in (*parents, last):
            if not isinstance(part, str) or isinstance(below, list):
                return None
            below = below.get(part, {}) if isinstance(below, dict) else {}
        for part in parents:
            table = table.setdefault(str(part), {})
        table[str(last)] = value
    return "\n".join([*(f"# {line}" for line in remarks), tomli_w.dumps(tables)])
