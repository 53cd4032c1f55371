"""The training loop: updates until the limit is reached or a stop is asked for, every hook call in sight."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from noether.core.models.base import ModelBase
from noether.data.samplers.tagged import TRAINING, TaggedBatch
from noether.kernel.dispatch import Dispatch
from noether.training.loop.rounds import Rounds

if TYPE_CHECKING:
    from noether.training.trainers.base import BaseTrainer


class TrainingLoop:
    """Trains until the run's limit, or until somebody asks for a stop.

    Runs under `torch.no_grad()`, so that no hook has to enter it; a train step switches gradients on for itself. What
    nobody implements is `None` in the dispatch and is neither called nor given anything.

    Args:
        trainer: Its `update` does each accumulation step.
        model: The model that is trained.
        dist_model: The same model as the forward pass calls it: wrapped for ranks, compiled.
        dispatch: The compiled hooks.
        stream: Batches, each with the tag of its consumer.
    """

    def __init__(
        self,
        trainer: BaseTrainer,
        model: ModelBase,
        dist_model: torch.nn.Module,
        dispatch: Dispatch,
        stream: Iterator[TaggedBatch],
    ) -> None:
        self.trainer = trainer
        self.model = model
        self.dist_model = dist_model
        self.stream = stream
        self.rounds = Rounds(trainer, model, dispatch, stream, dist_model)
        self.track_step = dispatch.track_after_accumulation_step
        self.track_update = dispatch.track_after_update_step
        self.calls_always = dispatch.after_update_always is not None or dispatch.after_epoch_always is not None
        self.is_scheduled = any(optimizer.scheduled for optimizer in model.optimizers().values())
        self.seconds: dict[str, float] = defaultdict(float, trainer.seconds)
        trainer.seconds = self.seconds
        self.update = trainer.step_function
        self.guard = trainer.finite_guard
        self.moves_batches = trainer.device.type != "cpu"

    @torch.no_grad()
    def run(self) -> None:
        """Train; on return the counter stands at the last completed update, its metrics written.

        A checkpoint that was asked for in the last update is left pending: it becomes one with that of the end.
        """
        trainer, rounds, counter = self.trainer, self.rounds, self.trainer.update_counter
        log_writer, checkpoint_writer = trainer.log_writer, trainer.checkpoint_writer
        logged, saves = log_writer.round, checkpoint_writer.queue
        guard, signals = self.guard, trainer.signals
        if trainer.round_to_repeat is not None:
            self._repeat_round(trainer.round_to_repeat)
        samples, updates_per_epoch = counter.effective_batch_size, counter.updates_per_epoch
        steps, end_update = trainer.accumulation_steps, counter.end_update
        if signals.received is not None and trainer.stopped_by is None:
            trainer.stop_for_signal()  # it came while the run began
        ends = counter.is_finished or trainer.stop_reason is not None
        while not ends:
            if self.is_scheduled:
                self.model.optimizer_schedule_step(counter.update)
            try:
                times = self._accumulate(steps)
            except BaseException:
                log_writer.discard()  # what hooks have said of an update that never completed
                raise
            counter.sample += samples
            counter.update += 1
            if counter.update % updates_per_epoch == 0:
                counter.epoch += 1
            if guard.was_skipped:
                trainer.give_up_if_not_finite()
            elif self.track_update is not None:
                self.track_update(counter, times)
            if self.calls_always or counter.update >= rounds.due:
                rounds.after_update()
            if signals.received is not None:
                trainer.stop_for_signal()
            ends = counter.update >= end_update or trainer.stop_reason is not None
            if logged.has_values:
                rounds.read_flags()
                log_writer.flush(counter)
            if saves.in_flight is not None and saves.in_flight.has_ended and not ends:
                rounds.settle()
            if saves.pending is not None and not ends:
                rounds.commit()
        rounds.read_flags()

    def _repeat_round(self, before_round: Mapping[str, Any]) -> None:
        """Finish the update that the run goes on with: an earlier session could not finish its round."""
        trainer, rounds = self.trainer, self.rounds
        trainer.round_to_repeat = None
        rounds.repeat(before_round)
        if trainer.signals.received is not None:
            trainer.stop_for_signal()
        elif trainer.stop_reason is None and not trainer.update_counter.is_finished:
            rounds.commit()
        trainer.log_writer.flush(trainer.update_counter)

    def _accumulate(self, steps: int) -> dict[str, float]:
        """Do the accumulation steps of one update; return the seconds of its parts, if anybody wants them.

        Loops stand where comprehensions would read better: a comprehension is a call, and this runs at every update.
        """
        trainer, guard, track_step, seconds = self.trainer, self.guard, self.track_step, self.seconds
        times: dict[str, float] = {"data_time": 0.0}
        for step in range(steps):
            started = perf_counter()
            tag, _, batch = next(self.stream)
            while tag != TRAINING:  # what a consumer did not read of its pass
                tag, _, batch = next(self.stream)
            if self.moves_batches:
                batch = trainer.to_device(batch)
            losses, outputs, watches = self.update(batch, self.dist_model, self.model, steps, step)
            trainer.last_loss, trainer.applied = losses["total"], guard.applied
            # A trainer with an `update` of its own may have other watches, or may not have started them.
            stepped = watches["forward_time"].started_at if "forward_time" in watches else started
            data_time = stepped - started if stepped > started else 0.0
            seconds["data_time"] += data_time
            for part in watches:
                seconds[part] += watches[part].elapsed_seconds
            if self.track_update is not None:
                times["data_time"] += data_time
                for part in watches:
                    elapsed = watches[part].elapsed_seconds
                    times[part] = times[part] + elapsed if step else elapsed
            if track_step is not None and not guard.was_skipped:
                track_step(trainer.update_counter, batch, losses, outputs, steps, step)
        return times
