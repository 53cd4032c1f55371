"""The ids of built callbacks: their keys in checkpoints, logs and profiles."""

from __future__ import annotations

from collections.abc import Sequence

from noether.core.callbacks.base import CallbackBase
from noether.core.utils.free_name import free_name


def name_callbacks(callbacks: Sequence[CallbackBase]) -> None:
    """Give each callback without an id of its own its short kind, then `-2`, `-3`."""
    taken = {callback.id for callback in callbacks if callback.id}
    for callback in callbacks:
        if not callback.id:
            callback.id = free_name(_short_kind(callback), taken)
            taken.add(callback.id)


def _short_kind(callback: CallbackBase) -> str:
    if callback.component is None or callback.component.entry is None:
        return type(callback).__name__.lower()
    return callback.component.entry.name
