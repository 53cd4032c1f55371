"""A boundary: the hooks of an update and an epoch, the metrics' line, the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import torch

from noether.checkpoint.writer import CheckpointWriter
from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.periodic import PeriodicCallback, PeriodicDataIteratorCallback
from noether.core.callbacks.tree import family
from noether.core.models.base import ModelBase
from noether.data.randomness import preserved_rng
from noether.data.samplers.tagged import TaggedBatch
from noether.kernel.compile import HookCall
from noether.kernel.dispatch import Dispatch
from noether.kernel.progress import UpdateCounter
from noether.metrics.log import LogWriter
from noether.training.loop.interruption import interruptible, take_up

if TYPE_CHECKING:
    from noether.training.trainers.base import BaseTrainer

CHECKPOINT_WAIT = "checkpoint_wait"
"""Seconds in which training waited for an asynchronous save, among the trainer's `seconds`."""


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
        self._going_through_data = [callback for callback in trainer.callbacks if _goes_through_data(callback)]

    def after_update(self) -> None:
        """Run the hooks of the update that was just counted, and of its epoch where it was the last of one.

        A stop may interrupt them where some of them go through data; the trainer has a pending round then.
        """
        counter, dispatch = self.counter, self.dispatch
        if counter.update < self.due:
            self._call(dispatch.after_update_always, dispatch.after_epoch_always)
            return
        self.read_flags()
        with interruptible(self.trainer, self.model) if self._is_pass_due() else nullcontext():
            self._call(dispatch.after_update, dispatch.after_epoch)
        self.due = dispatch.next_due_update(counter)

    def repeat(self, before_round: Mapping[str, Any]) -> None:
        """Run the round of the current update, which an earlier session could not finish.

        Args:
            before_round: What that session kept of it.
        """
        take_up(self.trainer, self.model, before_round)
        self.due = self.counter.update
        self.after_update()

    def _call(self, update_hooks: HookCall | None, epoch_hooks: HookCall | None) -> None:
        counter = self.counter
        if update_hooks is not None or (epoch_hooks is not None and counter.is_full_epoch):
            with preserved_rng():
                if update_hooks is not None:
                    update_hooks(counter, **self.arguments)
                if epoch_hooks is not None and counter.is_full_epoch:
                    epoch_hooks(counter, **self.arguments)

    def _is_pass_due(self) -> bool:
        """Whether a callback may go through data in this round; one without an interval of its own always may."""
        counter = self.counter
        hooks: list[Literal["update", "epoch"]] = ["update", "epoch"] if counter.is_full_epoch else ["update"]
        return any(
            not isinstance(callback, PeriodicCallback) or any(callback.is_due(counter, hook) for hook in hooks)
            for callback in self._going_through_data
        )

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
        """Write the metrics of this boundary, then the checkpoint that was asked for; wait for the one before it."""
        self.read_flags()
        self.log_writer.flush(self.counter)
        if self.checkpoint_writer.pending is not None:
            self.settle()
            with self.trainer.signals.uninterrupted():
                folder = self.checkpoint_writer.commit(self.trainer.capture_state(self.model))
            self._tell(folder)

    def settle(self) -> None:
        """Wait for the checkpoint that is being written, where one is, and tell of it."""
        if self.checkpoint_writer.queue.in_flight is None:
            return
        started = perf_counter()
        with self.trainer.signals.uninterrupted():
            folder = self.checkpoint_writer.settle()
        self.trainer.seconds[CHECKPOINT_WAIT] = (
            self.trainer.seconds.get(CHECKPOINT_WAIT, 0.0) + perf_counter() - started
        )
        self._tell(folder)

    @contextmanager
    def draining(self) -> Iterator[None]:
        """Let no run end, whatever ends it, before the checkpoint is committed that is being written.

        Raises:
            StorageError: The disk refused it; where another error ends the run, that one gets a note.
        """
        try:
            yield
        except BaseException as error:
            try:
                self.settle()
            except Exception as another:
                error.add_note(f"the checkpoint that was being written then failed as well: {another}")
            raise
        self.settle()

    def _tell(self, committed: Path | None) -> None:
        if committed is not None and self.dispatch.checkpoint_committed is not None:
            with preserved_rng():
                self.dispatch.checkpoint_committed(run=self.trainer.run, checkpoint=committed)


def _goes_through_data(callback: CallbackBase) -> bool:
    return any(isinstance(member, PeriodicDataIteratorCallback) for member in family([callback]))
