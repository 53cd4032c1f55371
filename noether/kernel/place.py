"""Where a function stands in the source, for messages about it."""

from __future__ import annotations

import inspect
from typing import Any


def place_of(attribute: Any) -> str:
    """Return ` (file:line)` of a function, method or property, or an empty string where it has no source."""
    function = attribute.fget if isinstance(attribute, property) else getattr(attribute, "__func__", attribute)
    code = getattr(inspect.unwrap(function) if callable(function) else function, "__code__", None)
    return f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
