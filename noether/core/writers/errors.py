"""Errors of the log writer."""

from __future__ import annotations

from collections.abc import Iterable

from noether.core.utils.nearest import did_you_mean
from noether.errors import TrainingError


class MissingMetricError(TrainingError, KeyError):
    """A metric was asked for that nobody logged in this round.

    Args:
        key: The key asked for.
        present: The keys that were logged.
    """

    def __init__(self, key: str, present: Iterable[str]) -> None:
        present = sorted(present)
        listed = ", ".join(repr(name) for name in present) or "none"
        super().__init__(
            f"no metric {key!r} was logged in this round.{did_you_mean(key, present)} Logged: {listed}",
            hint="the callback that logs it has to come earlier in the spec and to fire in the same round",
        )
