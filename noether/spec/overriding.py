"""Put an override's value in its place in a document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from noether.errors import SpecError
from noether.spec.describe import described, suggestion
from noether.spec.ids import item_ids, role_of_items
from noether.spec.layer import ArgumentLayer, Layer
from noether.spec.locate import TomlPath
from noether.spec.merge import merged
from noether.spec.origins import Node, Source, node_of, value_of
from noether.spec.override import ItemId, Override, Part
from noether.spec.problem import InvalidSpecError, Problem, quoted, toml_path
from noether.spec.quoting import listed
from noether.spec.reference import Reference

_Key: TypeAlias = str | int


def apply_override(root: Node, override: Override) -> None:
    """Do what an override says to a document; tables that are missing on the way are made.

    A table merges as `noether.spec.merge` says; an array, of tables too, is replaced.

    Raises:
        InvalidSpecError: The path leads through something that is no table, names an item that does not exist,
            or there is nothing to remove.
    """
    holder = root
    walked: TomlPath = ()
    for index, part in enumerate(override.path[:-1]):
        key = _locate(holder, part, walked, override, index)
        below = _child(holder, key)
        if below is None:
            if override.operation == "unset":
                return _nothing_to_remove(holder, walked, override, index)
            if isinstance(override.path[index + 1], ItemId):
                raise _wrong(override, (*walked, key), f"{toml_path((*walked, key))} has no items", index + 1)
            below = holder.content[key] = _made_table(override)
        holder, walked = below, (*walked, key)
    last = len(override.path) - 1
    key = _locate(holder, override.path[last], walked, override, last)
    if override.operation == "unset" and _child(holder, key) is None:
        return _nothing_to_remove(holder, walked, override, last)
    return _change(holder, key, (*walked, key), override)


def _change(holder: Node, key: _Key, path: TomlPath, override: Override) -> None:
    old = _child(holder, key)
    if override.operation == "unset":
        del holder.content[key]
    elif override.operation == "set":
        holder.content[key] = merged(old, node_of(override.value, override.layer))
    else:
        _append(holder, key, old, path, override)


def _append(holder: Node, key: _Key, old: Node | None, path: TomlPath, override: Override) -> None:
    """Put the value behind the last item of an array; an array that is missing is made."""
    if old is not None and not isinstance(old.content, list):
        message = f"{toml_path(path)} is {described(value_of(old))}, and += appends to a list"
        raise _wrong(override, path, message, len(override.path) - 1)
    items = old.content if old else []
    new = node_of(override.value, override.layer)
    source = Source(override.layer, (), [*map(value_of, items), override.value])
    holder.content[key] = Node([*items, new], (source, *(old.sources if old else ())))


def _child(holder: Node, key: _Key) -> Node | None:
    content: Any = holder.content
    child: Node | None = content.get(key) if isinstance(content, dict) else content[key]
    return child


def _made_table(override: Override) -> Node:
    """Return an empty table that an override makes on the way to its place."""
    layer = override.layer
    spot = layer.path_place if isinstance(layer, ArgumentLayer) else None
    return Node({}, (Source(Layer(layer.origin, layer.folder, spot), (), {}),))


def _nothing_to_remove(holder: Node, walked: TomlPath, override: Override, index: int) -> None:
    if override.lenient:
        return
    part = override.path[index]
    path = (*walked, str(part))
    message = f"there is no {toml_path(path)} to remove{suggestion(str(part), holder.content)}"
    where = toml_path(walked) or "the spec"
    hint = f"{where} says {listed(holder.content)}" if holder.content else None
    raise _wrong(override, path, message, index, hint)


def _locate(holder: Node, part: Part, walked: TomlPath, override: Override, index: int) -> _Key:
    """Return the key or index that `part` means in `holder`."""
    if isinstance(holder.content, list):
        items = value_of(holder)
        return (
            _by_id(items, part, walked, override, index)
            if isinstance(part, ItemId)
            else _by_index(items, part, walked, override, index)
        )
    if isinstance(holder.content, dict) and isinstance(part, str):
        return part
    place = toml_path(walked)
    if isinstance(holder.content, dict):
        raise _wrong(override, walked, f"{place} is a table and has no items to pick by id", index)
    if isinstance(holder.content, Reference):
        raise _wrong(override, walked, f"{place} is a reference to the environment, not a table", index)
    bare = holder.content
    hint = f"to give it options: -s '{place}={{kind={quoted(bare)}, …}}'" if isinstance(bare, str) else None
    raise _wrong(override, walked, f"{place} is {described(bare)}, not a table", index, hint)


def _by_id(items: Sequence[Any], part: ItemId, walked: TomlPath, override: Override, index: int) -> int:
    ids = item_ids(items, role_of_items(walked[-1]))
    if part.id in ids:
        return ids.index(part.id)
    known = f"it has {listed(ids)}" if ids else "it is empty"
    message = f"{toml_path(walked)} has no item with id {quoted(part.id)}{suggestion(part.id, ids)}"
    raise _wrong(override, walked, message, index, known)


def _by_index(items: Sequence[Any], part: str, walked: TomlPath, override: Override, index: int) -> int:
    place = toml_path(walked)
    if not (part.isascii() and part.isdecimal()):
        ids = item_ids(items, role_of_items(walked[-1]))
        hint = f"pick an item: {place}[{ids[0]}] or {place}.0" if ids else None
        raise _wrong(override, walked, f"{place} is a list, and {quoted(part)} is no index", index, hint)
    if len(part) > 9 or int(part) >= len(items):
        count = f"{len(items)} item" + "s" * (len(items) != 1)
        message = f"{place} has {count}, so there is no {place}.{part[:20]}"
        raise _wrong(override, walked, message, index, "indices start at 0")
    return int(part)


def _wrong(override: Override, path: TomlPath, message: str, index: int, hint: str | None = None) -> SpecError:
    place = override.part_place(index)
    problem = Problem(path, message, hint, (place,) if place else ())
    return InvalidSpecError([problem], origin=override.layer.origin)
