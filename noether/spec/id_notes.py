"""Ids that may surprise: a callback that goes by a number because another one was given its usual name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from noether.spec.callback_tables import callback_lists
from noether.spec.ids import default_id, item_ids
from noether.spec.quoting import quoted, toml_path


def id_notes(document: dict[str, Any]) -> Iterator[str]:
    """Yield a note for each callback whose default id is the explicit id of another one beside it.

    The explicit id counts, and the other callback gets the next free number; what addresses it by its kind's name, as
    an override or a state in a checkpoint, would mean the first one.

    Args:
        document: A valid spec as it was given, so that it tells which ids were chosen.
    """
    for callbacks in callback_lists(document):
        chosen = {
            item["id"]: index
            for index, item in enumerate(callbacks.items)
            if isinstance(item, dict) and isinstance(item.get("id"), str)
        }
        for index, (item, name) in enumerate(zip(callbacks.items, item_ids(callbacks.items, "callback"), strict=True)):
            usual = default_id(item, "callback")
            if index not in chosen.values() and usual in chosen:
                here, there = (toml_path((*callbacks.path, place)) for place in (index, chosen[usual]))
                yield f"{here}: its id is {quoted(name)}, because {there} has the id {quoted(usual)}"
