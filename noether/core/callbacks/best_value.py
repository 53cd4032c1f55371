"""The best value of a metric so far, and patience with several tolerances."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple


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


class Offered(NamedTuple):
    """What a value has changed.

    Attributes:
        is_best: Whether it is a new best.
        exceeded: Tolerances that are exceeded with it, for the first and only time.
    """

    is_best: bool
    exceeded: tuple[int, ...]


class Tolerances:
    """Follows one metric over the intervals of a run.

    A tolerance of n is exceeded once, when more than n intervals in a row had no new best; what comes later does not
    count for it, as a run that stops there would not have seen it.

    Args:
        tolerances: How many intervals without a new best are tolerated; each is followed by itself.
        higher_is_better: Whether a higher value is a better one.

    Attributes:
        tolerances: Each of them once, in rising order.
        best: The best value so far.
        counter: Intervals since there was a new best.
        kept: The best value at the moment when a tolerance was exceeded, None without any, by tolerance.
    """

    def __init__(self, tolerances: Iterable[int] = (), *, higher_is_better: bool) -> None:
        self.tolerances = tuple(sorted(set(tolerances)))
        self.best = BestValue(higher_is_better=higher_is_better)
        self.counter = 0
        self.kept: dict[int, float | None] = {}

    def offer(self, value: float) -> Offered:
        """Take the value of one interval."""
        is_best = self.best.offer(value)
        self.counter = 0 if is_best else self.counter + 1
        exceeded = tuple(n for n in self.tolerances if n < self.counter and n not in self.kept)
        self.kept |= dict.fromkeys(exceeded, self.best.value)
        return Offered(is_best, exceeded)

    def best_within(self, tolerance: int) -> float | None:
        """Return the best value that stopping with this tolerance would have kept; so far, while it is not exceeded."""
        return self.kept.get(tolerance, self.best.value)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next value is compared with."""
        return {"best": self.best.value, "without_improvement": self.counter, "kept": dict(self.kept)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another session was; tolerances that are no longer followed are forgotten."""
        self.best.value = state["best"]
        self.counter = state["without_improvement"]
        self.kept = {n: value for n, value in state["kept"].items() if n in self.tolerances}
