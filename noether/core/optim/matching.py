"""From the patterns of a spec to the parameters that they name."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection

from noether.errors import SpecError

_SHOWN = 4  # names in a hint


def matching(pattern: str, names: Collection[str], *, setting: str, of: str) -> list[str]:
    """Return the names that match `pattern`, in their order.

    Args:
        pattern: As in a shell: `encoder.*`, `*.bias`.
        names: Parameter names.
        setting: Where the spec has the pattern, for the message.
        of: What the names are, for the message: "parameter of the model".

    Raises:
        SpecError: None does.
    """
    matched = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
    if not matched:
        shown = ", ".join(list(names)[:_SHOWN])
        raise SpecError(f"{setting} {pattern!r} matches no {of}", hint=f"parameters are named like {shown}")
    return matched
