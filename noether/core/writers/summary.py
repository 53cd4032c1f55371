"""The last and the best value of every metric of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping

from noether.core.providers.metric_property import MetricPropertyProvider


class MetricSummary:
    """Follows the metrics of a run, line by line.

    Args:
        provider: Knows in which direction a metric gets better; without it there are no best values.
    """

    def __init__(self, provider: MetricPropertyProvider | None) -> None:
        self.final: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self._provider = provider
        self._signs: dict[str, int] = {}

    def add(self, metrics: Mapping[str, float]) -> None:
        """Take the values of one line in."""
        self.final.update(metrics)
        if self._provider is None:
            return
        for key, value in metrics.items():
            sign = self._sign(key)
            if sign and math.isfinite(value):
                best = self.best.get(key, value)
                self.best[key] = max(best, value) if sign > 0 else min(best, value)

    def clear(self) -> None:
        """Forget everything."""
        self.final.clear()
        self.best.clear()

    def _sign(self, key: str) -> int:
        """Return 1 for a metric that is better higher, -1 for one that is better lower, 0 for any other."""
        if key not in self._signs:
            direction = self._provider.direction(key) if self._provider else None
            self._signs[key] = {"higher": 1, "lower": -1}.get(direction or "", 0)
        return self._signs[key]
