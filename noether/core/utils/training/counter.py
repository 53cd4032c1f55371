"""UpdateCounter: where the run is now, and where it ends."""

from __future__ import annotations

from noether.core.utils.training.iteration import TrainingIteration


class UpdateCounter:
    """Counts completed epochs, updates and samples of a run.

    The counts are plain attributes, because the training loop reads them at every update.

    Args:
        start_iteration: Where counting starts; all zero for a new run.
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
        "start_iteration",
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
        self.start_iteration = start_iteration
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
        raise ValueError("an UpdateCounter needs an end: epoch, update or sample")

    @property
    def cur_iteration(self) -> TrainingIteration:
        """The current point, as a value that does not move."""
        return TrainingIteration(self.epoch, self.update, self.sample)

    @property
    def end_update(self) -> int:
        """The number of updates after which the run is finished."""
        return self._end_update

    @property
    def is_full_epoch(self) -> bool:
        """Whether the last update completed an epoch."""
        return self.update > 0 and self.update % self.updates_per_epoch == 0

    @property
    def is_finished(self) -> bool:
        """Whether the limit of the run is reached."""
        return self.update >= self._end_update

    @property
    def epoch_as_float(self) -> float:
        """Completed epochs, with the fraction of the current one."""
        return self.update / self.updates_per_epoch

    def next_update(self) -> None:
        """Count one completed update."""
        self.update += 1

    def next_epoch(self) -> None:
        """Count one completed epoch."""
        self.epoch += 1

    def add_samples(self, num_samples: int) -> None:
        """Count samples that an update has used."""
        self.sample += num_samples

    def __repr__(self) -> str:
        return f"UpdateCounter({self.cur_iteration} of {self._end_update} updates)"
