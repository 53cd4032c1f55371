"""Layers of a spec: where each value was written, what it replaced, and how one layer is merged over another.

Tables merge. A table whose `kind` changes replaces the table below, since another component has other options.
Plain arrays replace. Arrays of tables in a file merge by explicit `id`: an item with the same id merges in place,
an item with a new id or none is appended, and `remove = true` removes an item.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from noether.spec.errors.place import Place, SourceText
from noether.spec.errors.problem import Problem
from noether.spec.errors.words import listed, quoted, suggestion
from noether.spec.locate import Located, Locations, Span, TomlPath
from noether.spec.read.reference import Reference, is_reference

BEGINNING = "value = "
"""What is put before the value of an argument to make it TOML."""


class Layer:
    """A layer whose values stand in no text, such as those from Python, or all in one place.

    Args:
        origin: The file, `command line, argument 2`, `set` or `the spec`.
        folder: What its relative paths start from.
        spot: The place of everything in it, if there is one.

    Attributes:
        notes: What was changed to understand an older format.
        moved: Where in the text a value of today's format is written that had another path.
    """

    def __init__(self, origin: str, folder: Path, spot: Place | None = None) -> None:
        self.origin = origin
        self.folder = folder
        self.notes: tuple[str, ...] = ()
        self.moved: dict[TomlPath, TomlPath] = {}
        self._spot = spot

    def place(self, path: TomlPath, *, key: bool = False) -> Place | None:
        """Return where the value at `path` of this layer is written, or its key; None where it is in no text."""
        return self._spot

    def opens(self, path: TomlPath) -> bool:
        """Whether the table at `path` is written as such, rather than made by a header or key of something below it."""
        return True


class FileLayer(Layer):
    """The values of one file.

    Args:
        path: The file.
        source: Its text.
        table: What it says, in plain values.
    """

    def __init__(self, path: Path, source: SourceText, table: dict[str, Any]) -> None:
        super().__init__(str(path), path.absolute().parent)
        self.path = path
        self.source = source
        self.table = table

    def place(self, path: TomlPath, *, key: bool = False) -> Place | None:
        """Return where a value or its key is written; the document as a whole is its first line."""
        if not path:
            return self.source.first_line()
        span = _span(self._locations.nearest(self.moved.get(path, path))[1], key=key)
        return self.source.place(span.start, span.end)

    def opens(self, path: TomlPath) -> bool:
        """Whether the table has a header of its own, or is an inline table."""
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
    def _locations(self) -> Locations:  # only a spec with problems, or one that is explained, has to be searched
        return Locations(self.source.text)


class ArgumentLayer(Layer):
    """The value of one argument `path=value`.

    Args:
        source: The whole argument.
        key: Where in it the path is written.
        value: Where in it the value is written; equal to `key` where it has none.
    """

    def __init__(self, source: SourceText, key: Span, value: Span) -> None:
        super().__init__(source.origin, Path.cwd())
        self.source = source
        self._key = key
        self._value = value

    @property
    def path_place(self) -> Place:
        """Where the path is written."""
        return self.source.place(self._key.start, self._key.end)

    def place(self, path: TomlPath, *, key: bool = False) -> Place | None:
        """Return where in the argument something of its value is written; `()` is the value, or the path to it."""
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
    """One layer's word on a value.

    Attributes:
        layer: Who says it.
        path: Where in that layer; indices may differ from those of the spec.
        value: What it says; a reference to the environment as it is written. None where it takes the value away.
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
        """Where the value is written; None where it is in no text."""
        return self.layer.place(self.path)

    @property
    def key_place(self) -> Place | None:
        """Where its key is written; None where it is in no text."""
        return self.layer.place(self.path, key=True)


@dataclass
class Node:
    """A value of a spec while its layers are put together.

    Attributes:
        content: Nodes by key, a list of nodes, a `Reference`, or a plain value.
        sources: Who says so, newest first, with those that were overruled.
    """

    content: Any
    sources: tuple[Source, ...]


class Origins:
    """Tells where the values of a spec come from.

    Args:
        root: The layers, put together.
    """

    def __init__(self, root: Node) -> None:
        self._root = root

    def of(self, path: TomlPath) -> tuple[Source, ...]:
        """Return who says what is at `path`, newest first with those it overruled; empty where nobody does."""
        node = self._node(path)
        return node.sources if node else ()

    def nearest(self, path: TomlPath) -> tuple[TomlPath, tuple[Source, ...]]:
        """Return the longest beginning of a path that somebody says something at, and who."""
        while (node := self._node(path)) is None:
            path = path[:-1]
        return path, node.sources

    def paths(self) -> Iterator[TomlPath]:
        """Go through the paths of everything that the layers say, tables before what they hold; `()` is not one."""
        yield from _paths(self._root, ())

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
    """Return the plain value of nodes; references stay tables, as they are written."""
    content = node.content
    if isinstance(content, dict):
        return {key: value_of(item) for key, item in content.items()}
    if isinstance(content, list):
        return [value_of(item) for item in content]
    return content.table if isinstance(content, Reference) else content


def _is_index(part: str | int, items: list[Node]) -> bool:
    return isinstance(part, int) and part < len(items)


def _paths(node: Node, path: TomlPath) -> Iterator[TomlPath]:
    if path:
        yield path
    if isinstance(node.content, dict):
        for key, item in node.content.items():
            yield from _paths(item, (*path, key))
    elif isinstance(node.content, list):
        for index, item in enumerate(node.content):
            yield from _paths(item, (*path, index))


def merged(old: Node | None, new: Node, problems: list[Problem] | None = None) -> Node:
    """Return `new` on top of `old`, with the sources of both.

    Args:
        old: What the layers below say; None for nothing.
        new: What the layer says.
        problems: What does not fit is added here. Without it arrays of tables replace, as in an override.
    """
    content = new.content
    if isinstance(content, dict):
        below = old.content if old is not None and _continues(old.content, content) else {}
        content = below | {key: merged(below.get(key), node, problems) for key, node in content.items()}
    elif problems is not None and _holds_tables(content):
        content = _by_id(old.content if old and _holds_tables(old.content) else [], content, problems)
    return Node(content, (*new.sources, *(old.sources if old else ())))


def _continues(old: Any, new: dict[str, Node]) -> bool:
    """Whether a table says more about the one below, rather than being about another component."""
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
        position = positions.pop(name, None)  # a second item of this id is a new one, which validation refuses
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
        message, hint = "remove = true without the id of what to remove", 'add id = "…"'
    else:
        message = f"there is no item with id {quoted(str(name))} to remove{suggestion(str(name), known)}"
        hint = f"the files below have {listed(known)}" if known else "no file below has an item with an id here"
    return Problem((*source.path, key), message, hint, places=(place,) if place else ())
