"""Directions of metrics: better higher or better lower, decided from the metric key alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from noether.config.metric_facts import Direction, metric_direction
from noether.errors import UsageError

__all__ = ["Direction", "MetricPropertyProvider", "UnknownDirectionError"]


class UnknownDirectionError(UsageError, KeyError):
    """The direction of a metric is needed and not known."""


class MetricPropertyProvider:
    """Directions of metrics, by patterns over their keys.

    The prefixes of nested callbacks (`ema=0.999/`, `best=…/`) and the source of `…/at_best/<source>` are left out
    before matching. Patterns are those of a shell (`*`, `?`, `[…]`) and ignore case. Added patterns come before
    built-in ones, later ones before earlier ones.

    Args:
        patterns: Further patterns with their direction, as `add` takes them.
    """

    def __init__(self, patterns: Iterable[tuple[str, Direction]] = ()) -> None:
        self._added: list[tuple[str, Direction]] = []
        for pattern, direction in patterns:
            self.add(pattern, direction)

    def add(self, pattern: str, direction: Direction) -> None:
        """Set the direction of the metrics that match `pattern`.

        Raises:
            UsageError: if `direction` is not `higher`, `lower` or `neutral`.
        """
        if direction not in get_args(Direction):
            known = ", ".join(get_args(Direction))
            raise UsageError(f"unknown direction of {pattern!r}: found {direction!r}, expected one of {known}")
        self._added.insert(0, (pattern.lower(), direction))

    def direction(self, key: str) -> Direction | None:
        """Return the direction of a metric; None if no pattern matches, or if matching patterns disagree."""
        return metric_direction(key, self._added)

    def higher_is_better(self, key: str) -> bool:
        """Return True if higher values of the metric are better, False if lower ones are.

        Raises:
            UnknownDirectionError: if the direction is unknown, or the metric is neutral.
        """
        direction = self.direction(key)
        if direction in ("higher", "lower"):
            return direction == "higher"
        why = "is neutral: it has no better direction" if direction else "has no known direction: no pattern matches it"
        raise UnknownDirectionError(
            f"the metric {key!r} {why}",
            hint="set `higher_is_better = true` or `higher_is_better = false` in the callback that compares it",
        )
