"""Where every value of a layered spec comes from, and what it has replaced."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from noether.spec.layer import Layer
from noether.spec.locate import TomlPath
from noether.spec.place import Place
from noether.spec.reference import Reference, is_reference


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
