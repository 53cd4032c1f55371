"""In which direction a metric gets better, as far as its key tells."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

Direction: TypeAlias = Literal["lower", "higher", "neutral"]
"""In which direction a metric gets better; `neutral` for a fact that is neither good nor bad."""

BUILT_IN_PATTERNS: tuple[tuple[str, Direction], ...] = (
    ("*loss*", "lower"),
    ("*error*", "lower"),
    ("*mse*", "lower"),
    ("*rmse*", "lower"),
    ("*mae*", "lower"),
    ("*relative-l2*", "lower"),
    ("*relative_l2*", "lower"),
    ("*accuracy*", "higher"),
    ("*r2*", "higher"),
    ("*iou*", "higher"),
    ("*f1*", "higher"),
)
NEUTRAL_PATTERNS: tuple[str, ...] = ("profiling/*", "optim/*")

_PREFIX = re.compile(r"^((?:ema|best)=[^/]*/)+")


def metric_direction(key: str, added: Iterable[tuple[str, Direction]] = ()) -> Direction | None:
    """Return the direction of a metric; None where no pattern matches, or patterns that disagree do.

    Args:
        key: Key of the metric. What a parent put before it, and the source of `…/at_best/<source>`, do not count.
        added: Patterns that come before the built-in ones, the first that matches wins.
    """
    name = _PREFIX.sub("", key.lower()).split("/at_best/")[0]
    for pattern, direction in added:
        if fnmatchcase(name, pattern):
            return direction
    if any(fnmatchcase(name, pattern) for pattern in NEUTRAL_PATTERNS):
        return "neutral"
    matches = {direction for pattern, direction in BUILT_IN_PATTERNS if fnmatchcase(name, pattern)}
    return matches.pop() if len(matches) == 1 else None
