"""What is known about a run's metrics before anything is built: for classes that say what they log."""

from __future__ import annotations

import re
from dataclasses import dataclass

from noether.core.schemas.callbacks import CallBackBaseConfig
from noether.kernel.intervals import Intervals


@dataclass(frozen=True, slots=True)
class MetricFacts:
    """What a callback class may need to know for naming its metrics.

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
        """Return the data set that a callback means: the first one where it names none."""
        return key or next(iter(self.dataset_keys), "*")


def intervals_of(config: CallBackBaseConfig) -> Intervals:
    """Return the schedule that a config asks for."""
    return Intervals(config.every_n_epochs, config.every_n_updates, config.every_n_samples)


def key_matches(pattern: str, key: str) -> bool:
    """Whether a metric key is one of those that a pattern stands for; `*` stands for anything."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), key) is not None
