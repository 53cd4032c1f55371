"""How one layer of a spec lies on top of another.

Tables merge. A table whose `kind` changes replaces what was there, as another component has other options. Plain
arrays replace. Arrays of tables of a file merge by explicit `id`: the same id merges in place, a new id or none is
appended, and `remove = true` takes an item away.
"""

from __future__ import annotations

from typing import Any

from noether.spec.describe import suggestion
from noether.spec.origins import Node
from noether.spec.problem import Problem, quoted
from noether.spec.quoting import listed


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
