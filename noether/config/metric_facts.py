"""Metrics before anything is built: which keys a class logs and reads, and which direction is better."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Literal, TypeAlias, get_args

from noether.config.components import CallBackBaseConfig
from noether.errors import UsageError
from noether.kernel.progress import Intervals

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

TRAINING_LOSS = "loss/online/total"
_OF_THE_RUN = ("optim/", "stability/", "data/", "model/", "profiling/", "loss/online/")
_BEST = re.compile(r"/best(/tolerance=[^/]*)?$")
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


@lru_cache(maxsize=10_000)  # the same few keys are asked for at every display of progress
def is_evaluation(key: str) -> bool:
    """Return True for a metric that an evaluation logs, False for training losses, machinery and records of bests."""
    return not key.startswith(_OF_THE_RUN) and "/at_best/" not in key and _BEST.search(key) is None


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
    if "*" not in pattern:
        return pattern == key
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), key) is not None


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
