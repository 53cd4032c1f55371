"""Metrics before anything is built: which keys a class logs and reads, and which direction is better."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

from noether.config.components import CallBackBaseConfig
from noether.kernel.intervals import Intervals

Direction: TypeAlias = Literal["lower", "higher", "neutral"]
"""The direction in which a metric gets better; `neutral` for a metric without one."""

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
    """Return the direction of a metric; None if no pattern matches, or matching patterns disagree.

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


@dataclass(frozen=True, slots=True)
class MetricFacts:
    """Facts about a run that a callback class needs to name its metrics.

    Attributes:
        losses: Names of the losses that the trainer returns, beside `total`; None where it does not say.
        dataset_keys: Keys of the run's data sets, in the order of the spec.
    """

    losses: tuple[str, ...] | None
    dataset_keys: tuple[str, ...]

    @property
    def loss_patterns(self) -> tuple[str, ...]:
        """The losses with their `total`; `*` stands for names that are not known."""
        return ("total", *self.losses) if self.losses is not None else ("*",)

    def dataset_key(self, key: str | None) -> str:
        """Return the data set that a callback uses: the first one if it names none."""
        return key or next(iter(self.dataset_keys), "*")


def intervals_of(config: CallBackBaseConfig) -> Intervals:
    """Return the schedule that a config asks for."""
    return Intervals(config.every_n_epochs, config.every_n_updates, config.every_n_samples)


def key_matches(pattern: str, key: str) -> bool:
    """Return True if a metric key matches a pattern; `*` matches anything."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), key) is not None
