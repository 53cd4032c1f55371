"""A boundary: the hooks of an update and an epoch, the metrics' line, the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from noether.core.models.base import ModelBase
from noether.core.utils.training.counter import UpdateCounter
from noether.core.writers.checkpoint import CheckpointWriter
from noether.core.writers.log import LogWriter
from noether.data.randomness import preserved_rng
from noether.data.samplers.tagged import TaggedBatch
from noether.kernel.dispatch import Dispatch

if TYPE_CHECKING:
    from noether.training.trainers.base import BaseTrainer


class Rounds:
    """Calls the hooks after an update and commits what they ask for.

    What hooks draw from the global generators is put back, so that an observer never changes training.

    Args:
        trainer: Whose state is captured for a checkpoint.
        model: The model, unwrapped.
        dispatch: The compiled hooks.
        data_iter: The stream that evaluation batches come through.
        dist_model: The model as training calls it.
    """

    def __init__(
        self,
        trainer: BaseTrainer,
        model: ModelBase,
        dispatch: Dispatch,
        data_iter: Iterator[TaggedBatch],
        dist_model: torch.nn.Module,
    ) -> None:
        self.trainer = trainer
        self.model = model
        self.counter: UpdateCounter = trainer.update_counter
        self.guard = trainer.finite_guard
        self.log_writer: LogWriter = trainer.log_writer
        self.checkpoint_writer: CheckpointWriter = trainer.checkpoint_writer
        self.dispatch = dispatch
        self.arguments = {
            "trainer_model": dist_model,
            "data_iter": data_iter,
            "batch_size": trainer.batch_size,
        }
        self.due = dispatch.next_due_update(self.counter)

    def after_update(self) -> None:
        """Run the hooks of the update that was just counted, and of its epoch where it was the last of one."""
        counter, dispatch = self.counter, self.dispatch
        is_due = counter.update >= self.due
        if is_due:
            self.read_flags()
        update_hooks = dispatch.after_update if is_due else dispatch.after_update_always
        epoch_hooks = dispatch.after_epoch if is_due else dispatch.after_epoch_always
        if update_hooks is not None or (epoch_hooks is not None and counter.is_full_epoch):
            with preserved_rng():
                if update_hooks is not None:
                    update_hooks(counter, **self.arguments)
                if epoch_hooks is not None and counter.is_full_epoch:
                    epoch_hooks(counter, **self.arguments)
        if is_due:
            self.due = dispatch.next_due_update(counter)

    def read_flags(self) -> None:
        """Learn which updates were masked, where only the device knows; before anything is measured, logged or saved.

        Raises:
            NonFiniteError: One too many was.
        """
        if self.guard.waiting:
            self.trainer.give_up_if_not_finite()

    def at_eval(self) -> None:
        """Run what evaluates, once, outside of any schedule."""
        if self.dispatch.at_eval is not None:
            with preserved_rng():
                self.dispatch.at_eval(self.counter, **self.arguments)

    def commit(self) -> None:
        """Write the metrics of this boundary, then the checkpoint that was asked for."""
        self.read_flags()
        self.log_writer.flush(self.counter)
        if self.checkpoint_writer.pending is not None:
            folder = self.checkpoint_writer.commit(self.trainer.capture_state(self.model))
            if self.dispatch.checkpoint_committed is not None:
                with preserved_rng():
                    self.dispatch.checkpoint_committed(run=self.trainer.run, checkpoint=folder)
