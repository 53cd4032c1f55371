"""Progress of a run: its counters, the intervals at which callbacks act, early stops, Stopwatch.

An interval is `every_n_epochs`, `every_n_updates` or `every_n_samples`, and a pure function of the counters; an object
built by hand may have several. A callback and the sampler that prepares its evaluation batches must agree at every
update, so both use these functions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

_TEXT = re.compile(r"E(\d+)_U(\d+)_S(\d+)")


@dataclass(frozen=True, slots=True)
class TrainingIteration:
    """A point in training, or a limit; units that a limit does not bound are None."""

    epoch: int | None = None
    update: int | None = None
    sample: int | None = None

    def __str__(self) -> str:
        return f"E{self.epoch}_U{self.update}_S{self.sample}"

    @classmethod
    def parse(cls, text: str) -> TrainingIteration:
        """Read the text form `E1_U50_S3200` back.

        Raises:
            ValueError: if `text` does not have that form.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"malformed training iteration: found {text!r}, expected a text such as E1_U50_S3200")
        epoch, update, sample = (int(number) for number in match.groups())
        return cls(epoch, update, sample)


class EarlyStopIteration(Exception):  # noqa: N818  # like StopIteration: an end, not an error
    """Raised by a callback to end training before its limit: after the round, with a checkpoint; the run is FINISHED.

    The other callbacks of the round are still called, and the round of the epoch if the update completed one.

    Args:
        reason: Reason for the log: `"loss/val/total has not improved for 5 intervals"`.

    Attributes:
        reason: The reason.
        source: The participant that raised it: `callback 'stopper'`; empty until the hook has caught it.
    """

    source: str = ""

    def __init__(self, reason: str = "a callback asked for it") -> None:
        super().__init__(reason)
        self.reason = reason


class Stopwatch:
    """Adds up the seconds between `start` and `stop`; also a context manager.

    Attributes:
        elapsed_seconds: Seconds counted so far.
        started_at: Reading of `time.perf_counter` at the last start.
    """

    __slots__ = ("elapsed_seconds", "started_at")

    def __init__(self, elapsed_seconds: float = 0.0) -> None:
        self.elapsed_seconds = elapsed_seconds
        self.started_at = 0.0

    def start(self) -> Stopwatch:
        """Start counting, on top of earlier seconds."""
        self.started_at = perf_counter()
        return self

    def stop(self) -> float:
        """Stop counting and return all seconds counted so far."""
        self.elapsed_seconds += perf_counter() - self.started_at
        return self.elapsed_seconds

    def __enter__(self) -> Stopwatch:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class UpdateCounter:
    """Counts completed epochs, updates and samples of a run.

    The counts are plain attributes, because the training loop reads them at every update.

    Args:
        start_iteration: The point to count from; all zero for a new run.
        end_iteration: The limit of the run; exactly one of its units is set.
        updates_per_epoch: Updates in one pass over the training set.
        effective_batch_size: Samples in one update, over all ranks.
    """

    __slots__ = (
        "_end_update",
        "effective_batch_size",
        "end_iteration",
        "epoch",
        "sample",
        "update",
        "updates_per_epoch",
    )

    def __init__(
        self,
        start_iteration: TrainingIteration,
        end_iteration: TrainingIteration,
        updates_per_epoch: int,
        effective_batch_size: int,
    ) -> None:
        self.end_iteration = end_iteration
        self.updates_per_epoch = updates_per_epoch
        self.effective_batch_size = effective_batch_size
        self.epoch = start_iteration.epoch or 0
        self.update = start_iteration.update or 0
        self.sample = start_iteration.sample or 0
        self._end_update = self._last_update()

    def _last_update(self) -> int:
        limit = self.end_iteration
        if limit.update is not None:
            return limit.update
        if limit.epoch is not None:
            return limit.epoch * self.updates_per_epoch
        if limit.sample is not None:
            return -(-limit.sample // self.effective_batch_size)  # the update that reaches the limit is the last
        raise ValueError("missing end of an UpdateCounter: found none, expected an epoch, update or sample")

    @property
    def cur_iteration(self) -> TrainingIteration:
        """The current point, as a value that does not change."""
        return TrainingIteration(self.epoch, self.update, self.sample)

    @property
    def end_update(self) -> int:
        """The number of updates after which the run is finished."""
        return self._end_update

    @property
    def is_full_epoch(self) -> bool:
        """Return True if the last update completed an epoch."""
        return self.update > 0 and self.update % self.updates_per_epoch == 0

    @property
    def is_finished(self) -> bool:
        """Return True if the limit of the run is reached."""
        return self.update >= self._end_update

    @property
    def epoch_as_float(self) -> float:
        """Completed epochs, with the fraction of the current one."""
        return self.update / self.updates_per_epoch

    def __repr__(self) -> str:
        return f"UpdateCounter({self.cur_iteration} of {self._end_update} updates)"


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
