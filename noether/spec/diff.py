"""Differences between two specs with all their defaults, key by key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from noether.spec.describe.fields import item_ids, role_of_items
from noether.spec.errors.words import toml_key

_NOT_SETTINGS = ("resolved", "extends")
"""Keys about the sources of a spec, which do not change the run."""


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
    return list(_tables(_settings(left), _settings(right), ""))


def _settings(tables: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in tables.items() if key not in _NOT_SETTINGS}


def _tables(left: dict[str, Any], right: dict[str, Any], path: str) -> Iterator[Difference]:
    for key in dict.fromkeys((*left, *right)):
        below = f"{path}.{toml_key(key)}" if path else toml_key(key)
        yield from _values(left.get(key, ABSENT), right.get(key, ABSENT), below, key)


def _values(left: Any, right: Any, path: str, key: str) -> Iterator[Difference]:
    if _are(dict, left, right):
        yield from _tables(left, right, path)
    elif _are_items(left, right):
        yield from _items(left, right, path, key)
    elif not _same(left, right):
        yield Difference(path, left, right)


def _items(left: list[Any], right: list[Any], path: str, key: str) -> Iterator[Difference]:
    role = role_of_items(key)
    by_id = [dict(zip(item_ids(items, role), items, strict=True)) for items in (left, right)]
    for name in dict.fromkeys((*by_id[0], *by_id[1])):
        yield from _values(by_id[0].get(name, ABSENT), by_id[1].get(name, ABSENT), f"{path}[{name}]", key)
    common = [[name for name in ids if name in other] for ids, other in zip(by_id, by_id[::-1], strict=True)]
    if common[0] != common[1]:
        yield Difference(f"{path} (order)", common[0], common[1])


def _are(kind: type, left: Any, right: Any) -> bool:
    return isinstance(left, kind) and isinstance(right, kind)


def _are_items(left: Any, right: Any) -> bool:
    return _are(list, left, right) and any(isinstance(item, dict) for item in (*left, *right))


def _same(left: Any, right: Any) -> bool:
    """Return True if two values mean the same: 1 and 1.0 do, true and 1 do not, nan and nan do."""
    if _are(list, left, right):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, bool) is not isinstance(right, bool):
        return False
    return bool(left == right or (left != left and right != right))
