"""Go through the callbacks of a document, nested ones too, before or without its validation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel

from noether.config.components import CallBackBaseConfig
from noether.config.discriminated import Discriminated
from noether.spec.fields import class_of, lists_of_role

_TRAINER = Annotated[Any, Discriminated("trainer")]
_CALLBACK = Annotated[Any, Discriminated("callback")]
_USUAL_FIELDS = ("callbacks", "eval_callbacks")


@dataclass(frozen=True)
class CallbackList:
    """The callbacks in one field of a trainer or of a parent callback.

    Attributes:
        path: Where in the document the list stands.
        items: The callbacks: tables, or bare kinds.
        classes: The config class of each, or None where its kind is wrong.
        triggered: Whether the parent says when they run, whatever intervals they have.
    """

    path: tuple[str | int, ...]
    items: list[Any]
    classes: list[type[BaseModel] | None]
    triggered: bool = False


def callback_lists(document: dict[str, Any]) -> Iterator[CallbackList]:
    """Yield every list of callbacks, parents before children; what is malformed is skipped."""
    trainer = document.get("trainer")
    if isinstance(trainer, dict):
        yield from _lists_in(trainer, class_of(_TRAINER, trainer), ("trainer",), triggered=False)


def _lists_in(
    owner: dict[str, Any],
    owner_class: type[BaseModel] | None,
    path: tuple[str | int, ...],
    *,
    triggered: bool,
) -> Iterator[CallbackList]:
    fields = lists_of_role(owner_class, "callback") if owner_class else _USUAL_FIELDS
    for field in fields:
        items = owner.get(field)
        if not isinstance(items, list):
            continue
        classes = [class_of(_CALLBACK, item) for item in items]
        yield CallbackList((*path, field), items, classes, triggered)
        for index, (item, item_class) in enumerate(zip(items, classes, strict=True)):
            if isinstance(item, dict):
                yield from _lists_in(
                    item, item_class, (*path, field, index), triggered=triggered or _triggers(item_class)
                )


def _triggers(item_class: type[BaseModel] | None) -> bool:
    return (
        item_class is not None and issubclass(item_class, CallBackBaseConfig) and not item_class.children_need_interval
    )
