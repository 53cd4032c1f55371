"""Callbacks as participants in the dispatch of hooks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.ids import name_callbacks
from noether.kernel.hookspecs import HOOKS
from noether.kernel.participant import Participant


def participants_of(callbacks: Sequence[CallbackBase]) -> list[Participant]:
    """Return the callbacks of a run as participants, those that others own included; all get their ids.

    A nested one takes part in the hooks that its parent does not pass on to it; one that its parent only tells of
    through `get_children` in none, as that parent calls all of them.
    """
    name_callbacks(callbacks)
    return [participant for callback in callbacks for participant in _with_nested(callback, frozenset())]


def as_participant(callback: CallbackBase, *, without: frozenset[str] = frozenset()) -> Participant:
    """Return one callback as a participant.

    Args:
        callback: It has an id.
        without: Hooks that somebody else calls on it.
    """
    component = callback.component
    return Participant(
        id=callback.id,
        kind=component.kind if component else type(callback).__name__,
        instance=callback,
        distribution=component.distribution if component else "",
        version=component.version if component else "",
        without=without,
    )


def _with_nested(callback: CallbackBase, without: frozenset[str]) -> Iterator[Participant]:
    yield as_participant(callback, without=without)
    for group in callback.nested():
        group.name_after(callback.id)
        for member in group.members:
            yield from _with_nested(member, callback.passes_on)
    for child in _other_children(callback):
        yield from _with_nested(child, frozenset(HOOKS))


def _other_children(callback: CallbackBase) -> list[CallbackBase]:
    """Return the children that a callback only tells of through `get_children`, with ids below its own."""
    members = {id(member) for group in callback.nested() for member in group.members}
    children = [child for child in callback.get_children() if id(child) not in members]
    start = f"{callback.id}/"
    unnamed = [child for child in children if not child.id.startswith(start)]
    name_callbacks(unnamed)
    for child in unnamed:
        child.id = start + child.id
    return children
