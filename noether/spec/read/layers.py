"""Layers of a spec: where each value was written, what it replaced, and how one layer is merged over another.

Tables merge. A table whose `kind` changes replaces the table below, since another component has other options.
Plain arrays replace. Arrays of tables in a file merge by explicit `id`: an item with the same id merges in place,
an item with a new id or none is appended, and `remove = true` removes an item.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from noether.config.secrets import Reference, is_reference
from noether.spec.errors.problem import Problem, problem_at
from noether.spec.errors.words import listed, quoted, suggestion
from noether.spec.locate import Located, Locations, Place, SourceText, Span, TomlPath

BEGINNING = "value = "
"""Text put before the value of an argument to make it TOML."""


class Layer:
    """A layer without a text, such as values from Python, or with one place for all its values.

    Args:
        origin: The file, `command line, argument 2`, `set` or `the spec`.
        folder: Folder that its relative paths start from.
        spot: Place of all its values, if there is one.
    """

    def __init__(self, origin: str, folder: Path, spot: Place | None = None) -> None:
        self.origin = origin
        self.folder = folder
        self._spot = spot

    def place(self, path: TomlPath, *, key: bool = False) -> Place | None:
        """Return the place of the value at `path` in this layer, or of its key; None without a text."""
        return self._spot

    def opens(self, path: TomlPath) -> bool:
        """Return False if the table at `path` is only implied by a header or a dotted key of a table below it."""
        return True


class FileLayer(Layer):
    """The values of one file.

    Args:
        path: The file.
        source: Its text.
        table: Its plain values.
    """

    def __init__(self, path: Path, source: SourceText, table: dict[str, Any]) -> None:
        super().__init__(str(path), path.absolute().parent)
        self.path = path
        self.source = source
        self.table = table

    def place(self, path: TomlPath, *, key: bool = False) -> Place | None:
        """Return the place of a value or its key; the place of the whole document is its first line."""
        if not path:
            return self.source.first_line()
        span = _span(self._locations.nearest(path)[1], key=key)
        return self.source.place(span.start, span.end)

    def opens(self, path: TomlPath) -> bool:
        """Return True if the table has its own header, or is an inline table."""
        located = self._locations.of(path)
        if located is None or located.value is not None:
            return True
        return (
            located.header is not None
            and located.dotted is not None
            and located.key is not None
            and (located.key.end == located.dotted.end)
        )

    @cached_property
    def _locations(self) -> Locations:  # only needed for a spec with problems, or one that is explained
        return Locations(self.source.text)


class ArgumentLayer(Layer):
    """The value of one argument `path=value`.

    Args:
        source: The whole argument.
        key: Span of the path in it.
        value: Span of the value; equal to `key` if there is none.
    """

    def __init__(self, source: SourceText, key: Span, value: Span) -> None:
        super().__init__(source.origin, Path.cwd())
        self.source = source
        self._key = key
        self._value = value

    @property
    def path_place(self) -> Place:
        """The place of the path."""
        return self.source.place(self._key.start, self._key.end)

    def place(self, path: TomlPath, *, key: bool = False) -> Place | None:
        """Return the place of a part of the value in the argument; `()` is the whole value, or its path."""
        if not path:
            span = self._key if key else self._value
            return self.source.place(span.start, span.end)
        located = _span(self._locations.nearest(("value", *path))[1], key=key)
        shift = self._value.start - len(BEGINNING)
        return self.source.place(located.start + shift, located.end + shift)

    @cached_property
    def _locations(self) -> Locations:
        return Locations(BEGINNING + self.source.text[self._value.start : self._value.end])


def _span(located: Located, *, key: bool) -> Span:
    in_order = (
        (located.key, located.value, located.header)
        if key
        else (located.value, located.header, located.dotted, located.key)
    )
    return next((span for span in in_order if span is not None), Span(0, 0))


@dataclass(frozen=True)
class Source:
    """The value of one layer at one path.

    Attributes:
        layer: The layer.
        path: The path in that layer; indices may differ from those in the spec.
        value: The value; a reference to the environment stays a table. None if the layer removes the value.
    """

    layer: Layer
    path: TomlPath
    value: Any

    @property
    def origin(self) -> str:
        """The file, `command line, argument 2`, `set` or `the spec`."""
        return self.layer.origin

    @property
    def place(self) -> Place | None:
        """The place of the value; None without a text."""
        return self.layer.place(self.path)

    @property
    def key_place(self) -> Place | None:
        """The place of its key; None without a text."""
        return self.layer.place(self.path, key=True)


@dataclass
class Node:
    """A value of a spec while its layers are merged.

    Attributes:
        content: Nodes by key, a list of nodes, a `Reference`, or a plain value.
        sources: The layers that set it, newest first, with the layers that were overruled.
    """

    content: Any
    sources: tuple[Source, ...]


class Origins:
    """Sources of the values of a spec, by path.

    Args:
        root: The merged layers.
    """

    def __init__(self, root: Node) -> None:
        self._root = root

    def of(self, path: TomlPath) -> tuple[Source, ...]:
        """Return the sources of the value at `path`, newest first; empty if no layer sets it."""
        node = self._node(path)
        return node.sources if node else ()

    def nearest(self, path: TomlPath) -> tuple[TomlPath, tuple[Source, ...]]:
        """Return the longest prefix of a path that a layer sets, and its sources."""
        while (node := self._node(path)) is None:
            path = path[:-1]
        return path, node.sources

    def _node(self, path: TomlPath) -> Node | None:
        node = self._root
        for part in path:
            below = node.content
            known = part in below if isinstance(below, dict) else isinstance(below, list) and _is_index(part, below)
            if not known:
                return None
            node = below[part]
        return node


def node_of(value: Any, layer: Layer, path: TomlPath = ()) -> Node:
    """Return a layer's plain value as nodes."""
    content = value
    if is_reference(value):
        content = Reference(value)
    elif isinstance(value, dict):
        content = {key: node_of(item, layer, (*path, key)) for key, item in value.items()}
    elif isinstance(value, list):
        content = [node_of(item, layer, (*path, index)) for index, item in enumerate(value)]
    return Node(content, (Source(layer, path, value),))


def value_of(node: Node) -> Any:
    """Return the plain value of a node; references to the environment stay tables."""
    content = node.content
    if isinstance(content, dict):
        return {key: value_of(item) for key, item in content.items()}
    if isinstance(content, list):
        return [value_of(item) for item in content]
    return content.table if isinstance(content, Reference) else content


def _is_index(part: str | int, items: list[Node]) -> bool:
    return isinstance(part, int) and part < len(items)


def merged(old: Node | None, new: Node, problems: list[Problem] | None = None) -> Node:
    """Return `new` merged over `old`, with the sources of both.

    Args:
        old: The value in the layers below; None for none.
        new: The value in the layer.
        problems: List that problems are appended to. Without it arrays of tables replace, as in an override.
    """
    content = new.content
    if isinstance(content, dict):
        below = old.content if old is not None and _continues(old.content, content) else {}
        content = below | {key: merged(below.get(key), node, problems) for key, node in content.items()}
    elif problems is not None and _holds_tables(content):
        content = _by_id(old.content if old and _holds_tables(old.content) else [], content, problems)
    return Node(content, (*new.sources, *(old.sources if old else ())))


def _continues(old: Any, new: dict[str, Node]) -> bool:
    """Return True if a table is about the same component as the table below it."""
    if not isinstance(old, dict):
        return False
    return "kind" not in old or "kind" not in new or old["kind"].content == new["kind"].content


def _holds_tables(content: Any) -> bool:
    return isinstance(content, list) and any(isinstance(item.content, dict) for item in content)


def _by_id(old: list[Node], new: list[Node], problems: list[Problem]) -> list[Node]:
    items: list[Node | None] = list(old)
    positions = {name: index for index, item in reversed([*enumerate(old)]) if (name := _plain(item, "id")) is not None}
    for item in new:
        name = _plain(item, "id")
        position = positions.pop(name, None)  # validation refuses a second item of this id
        if _plain(item, "remove") is True:
            if position is None:
                problems.append(_nothing_to_remove(item, name, [str(known) for known in positions]))
            else:
                items[position] = None
        elif position is None:
            items.append(merged(None, item, problems))
        else:
            items[position] = merged(items[position], item, problems)
    return [item for item in items if item is not None]


def _plain(item: Node, key: str) -> Any:
    """Return the plain value of a key of an item, or None."""
    node = item.content.get(key) if isinstance(item.content, dict) else None
    return node.content if node is not None and isinstance(node.content, (str, bool)) else None


def _nothing_to_remove(item: Node, name: Any, known: list[str]) -> Problem:
    source = item.sources[0]
    key = "id" if name is not None else "remove"
    place = source.layer.place((*source.path, key))
    if name is None:
        message, hint = "remove = true needs the id of the item to remove", 'add id = "…"'
    else:
        message = f"no item with id {quoted(str(name))} to remove{suggestion(str(name), known)}"
        hint = f"the extended files have {listed(known)}" if known else "no extended file has an item with an id here"
    return problem_at(place, "unknown-path", (*source.path, key), message, hint)
