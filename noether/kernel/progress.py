"""Progress of a run: UpdateCounter, TrainingIteration, EarlyStopIteration, Stopwatch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from time import perf_counter

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
