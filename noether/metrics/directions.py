"""What is known about a metric from its key alone: whether it is better when it is higher or lower."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from noether.config.metric_facts import Direction, metric_direction
from noether.errors import UsageError

__all__ = ["Direction", "MetricPropertyProvider", "UnknownDirectionError"]


class UnknownDirectionError(UsageError, KeyError):
    """Nothing says whether a metric is better when it is higher or lower."""


class MetricPropertyProvider:
    """Tells the direction of a metric by patterns over its key.

    The prefixes of nested callbacks (`ema=0.999/`, `best=…/`) and the source of `…/at_best/<source>` say
    nothing about the metric itself and are left out before matching. Patterns are those of a shell (`*`, `?`,
    `[…]`) and ignore case. Added patterns come before built-in ones, later ones before earlier.

    Args:
        patterns: Further patterns with their direction, as `add` takes them.
    """

    def __init__(self, patterns: Iterable[tuple[str, Direction]] = ()) -> None:
        self._added: list[tuple[str, Direction]] = []
        for pattern, direction in patterns:
            self.add(pattern, direction)

    def add(self, pattern: str, direction: Direction) -> None:
        """Say in which direction the metrics that match `pattern` get better.

        Raises:
            UsageError: If the direction is none.
        """
        if direction not in get_args(Direction):
            known = ", ".join(get_args(Direction))
            raise UsageError(f"the direction of {pattern!r} must be one of {known}, found {direction!r}")
        self._added.insert(0, (pattern.lower(), direction))

    def direction(self, key: str) -> Direction | None:
        """Return the direction of a metric; None where no pattern matches, or patterns that disagree do."""
        return metric_direction(key, self._added)

    def is_neutral(self, key: str) -> bool:
        """Return whether the metric is known to be neither good nor bad."""
        return self.direction(key) == "neutral"

    def higher_is_better(self, key: str) -> bool:
        """Return whether a higher value of the metric is a better one.

        Raises:
            UnknownDirectionError: If that is unknown, or the metric is neutral.
        """
        direction = self.direction(key)
        if direction in ("higher", "lower"):
            return direction == "higher"
        why = "has no known direction: it may be better higher or lower"
        if direction == "neutral":
            why = "is neither good nor bad"
        raise UnknownDirectionError(
            f"the metric {key!r} {why}",
            hint="set `higher_is_better = true` or `higher_is_better = false` where it is compared",
        )
