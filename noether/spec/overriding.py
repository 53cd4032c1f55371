"""Put an override's value in its place in a document."""

from __future__ import annotations

from typing import Any

from noether.core.utils.nearest import did_you_mean
from noether.errors import SpecError
from noether.spec.describe import described
from noether.spec.ids import item_ids, role_of_items
from noether.spec.override import ItemId, Override, Part
from noether.spec.problem import quoted, toml_path

_Path = tuple[str | int, ...]


def apply_override(document: dict[str, Any], override: Override) -> None:
    """Set the override's value in `document`; tables that are missing on the way are made.

    A table with a `kind` replaces what is there, as another component has other options; one without merges
    into it.

    Raises:
        SpecError: The path leads through something that is no table, or names an item that does not exist.
    """
    holder: Any = document
    walked: _Path = ()
    for part, following in zip(override.path, (*override.path[1:], None), strict=True):
        key = _locate(holder, part, walked, override)
        if following is None:
            return _set(holder, key, override.value)
        if isinstance(holder, dict) and key not in holder:
            if isinstance(following, ItemId):
                raise _wrong(override, f"{toml_path((*walked, key))} has no items")
            holder[key] = {}
        holder, walked = holder[key], (*walked, key)
    return None


def _set(holder: Any, key: Any, value: Any) -> None:
    if value is not None:
        old = holder[key] if isinstance(holder, list) else holder.get(key)
        holder[key] = _merged(old, value)
    elif isinstance(holder, list) or key in holder:
        del holder[key]


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, dict) or "kind" in new:
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


def _locate(holder: Any, part: Part, walked: _Path, override: Override) -> str | int:
    """Return the key or index that `part` means in `holder`."""
    if isinstance(holder, list):
        find = _by_id if isinstance(part, ItemId) else _by_index
        return find(holder, part, walked, override)
    if isinstance(holder, dict) and isinstance(part, str):
        return part
    if isinstance(holder, dict):
        raise _wrong(override, f"{toml_path(walked)} is a table and has no items to pick by id")
    bare = toml_path(walked)
    hint = f"to give it options: -s '{bare}={{kind={quoted(holder)}, …}}'" if isinstance(holder, str) else None
    raise _wrong(override, f"{bare} is {described(holder)}, not a table", hint)


def _by_id(items: list[Any], part: Any, walked: _Path, override: Override) -> int:
    ids = item_ids(items, role_of_items(walked[-1]))
    if part.id in ids:
        return ids.index(part.id)
    known = f"it has {', '.join(ids)}" if ids else "it is empty"
    place = toml_path(walked)
    raise _wrong(override, f"{place} has no item with id {quoted(part.id)}.{did_you_mean(part.id, ids)}", known)


def _by_index(items: list[Any], part: Any, walked: _Path, override: Override) -> int:
    place = toml_path(walked)
    if not part.isdecimal():
        ids = item_ids(items, role_of_items(walked[-1]))
        hint = f"pick an item: {place}[{ids[0]}] or {place}.0" if ids else None
        raise _wrong(override, f"{place} is a list, and {quoted(part)} is no index", hint)
    if int(part) >= len(items):
        count = f"{len(items)} item" + "s" * (len(items) != 1)
        raise _wrong(override, f"{place} has {count}, so there is no {place}.{part}", "indices start at 0")
    return int(part)


def _wrong(override: Override, message: str, hint: str | None = None) -> SpecError:
    return SpecError(f"override {quoted(override.text)}: {message}", hint=hint)
