"""Ids of items of an array of tables: an explicit `id`, or one made from the `kind`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from noether.errors import PluginError
from noether.kernel.names import free_name
from noether.kernel.registry import active_registry

ID = re.compile(r"[a-z0-9_][a-z0-9._-]*")
LONGEST_ID = 80
"""Limit of an id, which becomes the name of a file or folder in a checkpoint."""
_LONGEST_MADE = 70  # leaves room for `-2`
_ROLES = {"callbacks": "callback", "transforms": "transform", "trackers": "tracker"}
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def role_of_items(key: str | int) -> str:
    """Return the role of the items below a key: `callbacks` and `eval_callbacks` hold callbacks."""
    return _ROLES.get(str(key).rpartition("_")[2], "callback")


def item_ids(items: Sequence[Any], role: str) -> list[str]:
    """Return the id of each item: its own, else its short kind, then `-2`, `-3` if that is taken."""
    taken = {item["id"] for item in items if isinstance(item, dict) and isinstance(item.get("id"), str)}
    ids = []
    for item in items:
        explicit = item.get("id") if isinstance(item, dict) else None
        if not isinstance(explicit, str):
            explicit = free_name(default_id(item, role), taken)
            taken.add(explicit)
        ids.append(explicit)
    return ids


def default_id(item: Any, role: str) -> str:
    """Return the default id of an item, if that is free: the short name of its kind.

    The spelling of the kind does not matter, and nothing is imported.
    """
    kind = item.get("kind") if isinstance(item, dict) else item
    if not isinstance(kind, str) or not kind:
        return role
    last = re.split(r"[./:]", kind)[-1]
    for spelling in (kind, last):
        try:
            return active_registry().find(role, spelling).name.lower()
        except PluginError:
            continue
    words = _WORD_START.sub("-", last).lower().replace("_", "-")
    name = re.sub(r"[^a-z0-9._-]", "-", words.removesuffix(f"-{role}")).lstrip(".-")
    return name[:_LONGEST_MADE] or role
