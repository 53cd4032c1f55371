"""What the values of a manifest must be: its own hash keeps accidents away, but whoever writes one can hash it too."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from noether.kernel.names import are_path_parts

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST = 1 << 63


def require_manifest_shape(body: Mapping[str, Any]) -> None:
    """Check the types, the ranges and the paths of a decoded manifest.

    Raises:
        ValueError: A value is not what it has to be, or is missing or too many.
    """
    if body.keys() != _FIELDS.keys():
        wrong = ", ".join(sorted(body.keys() ^ _FIELDS.keys()))
        raise ValueError(f"the manifest lacks or has too many of {wrong[:200]!r}")
    for name, is_right in _FIELDS.items():
        if not is_right(body[name]):
            raise ValueError(f"`{name}` in the manifest is not what it has to be")
    for file, aliases in body["aliases"].items():
        if file not in body["files"] or aliases.keys() & set(aliases.values()):
            raise ValueError(f"`aliases` in the manifest are of a file that it has not, or go in circles: {file!r}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_record(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"size", "sha256"}
        and _is_count(value["size"])
        and _is_text(value["sha256"])
        and _SHA256.fullmatch(value["sha256"]) is not None
    )


def _is_named_step(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"update", "weights"}
        and _is_count(value["update"])
        and _is_text(value["weights"])
        and are_path_parts(value["weights"])
    )


def _table_of(is_key: Callable[[str], bool], is_value: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def is_table(value: Any) -> bool:
        return isinstance(value, dict) and all(is_key(key) and is_value(item) for key, item in value.items())

    return is_table


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "epoch": _is_count,
    "update": _is_count,
    "sample": _is_count,
    "files": _table_of(are_path_parts, _is_record),
    "aliases": _table_of(are_path_parts, _table_of(_is_text, _is_text)),
    "names": _table_of(_is_text, _is_named_step),
    "world_size": lambda value: _is_count(value) and value > 0,
    "spec_sha256": _is_text,
    "parent": lambda value: value is None or (_is_text(value) and are_path_parts(value)),
    "resumable": lambda value: isinstance(value, bool),
    "finite": lambda value: isinstance(value, bool),
    "written_by": _is_text,
    "format": _is_count,
}
"""As `Manifest` has them."""
