"""Intervals as pure functions of the counters: the one truth about when a callback acts.

An interval is `every_n_epochs`, `every_n_updates` or `every_n_samples`; an object built by hand may have several. A
callback and the sampler that prepares its evaluation batches must agree at every update, so both use these functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from noether.kernel.progress import UpdateCounter

FiredInterval = Literal["epoch", "update", "sample"]
EVERY = ("every_n_epochs", "every_n_updates", "every_n_samples")
NEVER = 2**63 - 1  # an update that no run reaches, so that "due?" stays one comparison of integers


@dataclass(frozen=True, slots=True)
class Intervals:
    """The intervals of one callback; None for a unit that is not used."""

    every_n_epochs: int | None = None
    every_n_updates: int | None = None
    every_n_samples: int | None = None

    def fires_after_update(self, update: int, effective_batch_size: int) -> Literal["update", "sample"] | None:
        """Return which of the update and sample intervals fires after `update` completed updates."""
        if update <= 0:
            return None
        if self.every_n_updates is not None and update % self.every_n_updates == 0:
            return "update"
        n = self.every_n_samples
        if n is not None and update * effective_batch_size // n > (update - 1) * effective_batch_size // n:
            return "sample"
        return None

    def fires_after_epoch(self, epoch: int) -> Literal["epoch"] | None:
        """Return "epoch" if the epoch interval fires after `epoch` completed epochs."""
        if self.every_n_epochs is not None and epoch > 0 and epoch % self.every_n_epochs == 0:
            return "epoch"
        return None

    def next_due_update(self, update: int, updates_per_epoch: int, effective_batch_size: int) -> int:
        """Return the first update after `update` at which any interval fires; `NEVER` without one."""
        due = NEVER
        if self.every_n_updates is not None:
            due = (update // self.every_n_updates + 1) * self.every_n_updates
        if self.every_n_samples is not None:
            next_multiple = (update * effective_batch_size // self.every_n_samples + 1) * self.every_n_samples
            due = min(due, -(-next_multiple // effective_batch_size))
        if self.every_n_epochs is not None:
            updates = self.every_n_epochs * updates_per_epoch
            due = min(due, (update // updates + 1) * updates)
        return due

    def updates_per_interval(self, updates_per_epoch: int, effective_batch_size: int) -> int:
        """Return the updates from one firing to the next, by the first unit that is set.

        Raises:
            ValueError: if no interval is set, or `every_n_samples` is not a multiple of the effective batch size.
        """
        if self.every_n_epochs is not None:
            return updates_per_epoch * self.every_n_epochs
        if self.every_n_updates is not None:
            return self.every_n_updates
        if self.every_n_samples is None:
            raise ValueError(
                "missing interval: found none, expected every_n_epochs, every_n_updates or every_n_samples"
            )
        updates, rest = divmod(self.every_n_samples, effective_batch_size)
        if rest:
            raise ValueError(
                f"wrong every_n_samples: found {self.every_n_samples}, expected a multiple of the effective batch size "
                f"{effective_batch_size}"
            )
        return updates

    def firings(
        self,
        hook: Literal["update", "epoch"],
        span: range,
        updates_per_epoch: int,
        effective_batch_size: int,
    ) -> int:
        """Return the number of times that an interval fires in a run.

        Args:
            hook: "update" for the intervals of `after_update`, "epoch" for that of `after_epoch`.
            span: The completed updates after which hooks are called.
            updates_per_epoch: Updates in one epoch.
            effective_batch_size: Samples in one update.
        """
        before, last = span.start - 1, span.stop - 1
        if not span:
            return 0
        if hook == "epoch":
            updates = (self.every_n_epochs or NEVER) * updates_per_epoch
            return last // updates - before // updates
        n, m = self.every_n_samples, self.every_n_updates
        if n is None:
            return 0 if m is None else last // m - before // m
        if m is None and n >= effective_batch_size:  # below that, one call an update is the most
            return last * effective_batch_size // n - before * effective_batch_size // n
        return sum(self.fires_after_update(update, effective_batch_size) is not None for update in span)

    @property
    def verbose(self) -> str:
        """The intervals as in a spec: `every_n_epochs=1`, several joined by commas."""
        return ",".join(f"{unit}={getattr(self, unit)}" for unit in EVERY if getattr(self, unit) is not None)


def fires(intervals: Intervals, counter: UpdateCounter, hook: Literal["update", "epoch"]) -> FiredInterval | None:
    """Return which interval fires at `counter` in the `after_update` or the `after_epoch` hook, or None."""
    if hook == "update":
        return intervals.fires_after_update(counter.update, counter.effective_batch_size)
    return intervals.fires_after_epoch(counter.epoch) if counter.is_full_epoch else None
