"""The best value of a metric so far; one rule for all who compare."""

from __future__ import annotations

import math


class BestValue:
    """Follows one metric: strictly better wins, the earlier of two equal values stays, only finite values count.

    Args:
        higher_is_better: Whether a higher value is a better one.

    Attributes:
        value: The best value; None before the first finite one.
    """

    __slots__ = ("higher_is_better", "value")

    def __init__(self, *, higher_is_better: bool) -> None:
        self.higher_is_better = higher_is_better
        self.value: float | None = None

    def offer(self, value: float) -> bool:
        """Take `value` where it is a new best, and return whether it is."""
        if not math.isfinite(value):
            return False
        if self.value is not None and not (value > self.value if self.higher_is_better else value < self.value):
            return False
        self.value = value
        return True
