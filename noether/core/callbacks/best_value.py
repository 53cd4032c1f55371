"""The best value of a metric so far, and patience with several tolerances."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from noether.config.metric_facts import MetricPropertyProvider


def direction_of(metric_key: str, higher_is_better: bool | None, directions: MetricPropertyProvider) -> bool:
    """Return True if higher values of a metric are better: as configured, else by the name of the metric.

    Raises:
        UnknownDirectionError: if neither the config nor the name tells.
    """
    return directions.higher_is_better(metric_key) if higher_is_better is None else higher_is_better


class BestValue:
    """Follow one metric: a finite, strictly better value is a new best; of equal values the first one stays.

    Args:
        higher_is_better: True if a higher value is better.

    Attributes:
        value: The best value; None before the first finite one.
        without_improvement: Number of values since the best one.
    """

    __slots__ = ("higher_is_better", "value", "without_improvement")

    def __init__(self, *, higher_is_better: bool) -> None:
        self.higher_is_better = higher_is_better
        self.value: float | None = None
        self.without_improvement = 0

    @property
    def or_worst(self) -> float:
        """The best value; before the first one the worst possible, an infinity."""
        if self.value is None:
            return -math.inf if self.higher_is_better else math.inf
        return self.value

    def begin_from(self, value: float) -> None:
        """Set the best value; one that is not finite stands for none."""
        self.value = float(value) if math.isfinite(value) else None

    def offer(self, value: float) -> bool:
        """Take the next value, and return True if it is a new best."""
        is_best = math.isfinite(value) and (
            self.value is None or (value > self.value if self.higher_is_better else value < self.value)
        )
        self.without_improvement = 0 if is_best else self.without_improvement + 1
        if is_best:
            self.value = value
        return is_best

    def state_dict(self) -> dict[str, Any]:
        """Return the state that the next value is compared with."""
        return {"best": self.value, "without_improvement": self.without_improvement}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the state of an earlier session."""
        self.value, self.without_improvement = state["best"], state["without_improvement"]


class Offered(NamedTuple):
    """The changes that one value made.

    Attributes:
        is_best: True for a new best.
        exceeded: Tolerances that are exceeded with this value; each is exceeded once.
    """

    is_best: bool
    exceeded: tuple[int, ...]


class Tolerances:
    """Follow one metric with several tolerances at once.

    A tolerance of n is exceeded once: when more than n intervals in a row had no new best. Later values do not count
    for it, as a run that stops there would not have seen them.

    Args:
        tolerances: Numbers of intervals without a new best that are tolerated.
        higher_is_better: True if a higher value is better.

    Attributes:
        tolerances: The tolerances in rising order, each once.
        best: The best value so far.
        kept: The best value at the moment when a tolerance was exceeded, by tolerance; None if there was none.
    """

    def __init__(self, tolerances: Iterable[int] = (), *, higher_is_better: bool) -> None:
        self.tolerances = tuple(sorted(set(tolerances)))
        self.best = BestValue(higher_is_better=higher_is_better)
        self.kept: dict[int, float | None] = {}

    def offer(self, value: float) -> Offered:
        """Take the value of one interval."""
        is_best = self.best.offer(value)
        without = self.best.without_improvement
        exceeded = tuple(n for n in self.tolerances if n < without and n not in self.kept)
        self.kept |= dict.fromkeys(exceeded, self.best.value)
        return Offered(is_best, exceeded)

    def best_within(self, tolerance: int) -> float | None:
        """Return the best value that stopping with this tolerance would keep: the best so far if it still holds."""
        return self.kept.get(tolerance, self.best.value)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that the next value is compared with."""
        return {**self.best.state_dict(), "kept": dict(self.kept)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the state of an earlier session; tolerances that are no longer followed are forgotten."""
        self.best.load_state_dict(state)
        self.kept = {n: value for n, value in state["kept"].items() if n in self.tolerances}
