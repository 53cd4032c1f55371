"""The loop of a run: train, evaluate, and the boundary after each update. It is the loop that the docs print."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch

from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.periodic import iterator_callbacks
from noether.core.callbacks.tree import family
from noether.core.models.agreement import begin_training
from noether.core.models.base import ModelBase, check_state, evaluating
from noether.data.randomness import preserved_rng
from noether.data.samplers import TaggedBatch
from noether.errors import NonFiniteError
from noether.kernel.compile import watched
from noether.kernel.dispatch import Dispatch
from noether.training.capture import named
from noether.training.optimizers import follow_metrics, warn_of_unread_metrics
from noether.training.rounds import Rounds, call_hook
from noether.training.state import TrainerParts, may_change_at_every_update
from noether.training.stop import agree_on_stop, interruptible_evaluation, stop_for_signal


@torch.no_grad()
def train(trainer: TrainerParts, model: ModelBase, dist_model: torch.nn.Module) -> None:
    """Train from the current update on; every end that is not an error commits a checkpoint.

    Runs under `torch.no_grad()`, so that no hook has to enter it; an update switches gradients on for itself.

    Args:
        trainer: The trainer, prepared.
        model: The model that is trained, unwrapped.
        dist_model: The same model as the forward pass calls it: wrapped for ranks, compiled.
    """
    state = trainer.state
    with _running(trainer, model) as stack:
        check_state(model)
        begin_training(model, stack)
        follow_metrics(trainer.log_writer, model, trainer.metric_property_provider)
        trainer.checkpoint_writer.prepare()
        with preserved_rng():  # those of a resumed run stand at their places already
            if not model.training:
                dist_model.train()  # else each module keeps the mode that its constructor chose
            stream = watched(iter(trainer.get_data_loader(iterator_callbacks(trainer.callbacks), trainer.batch_size)))
            rounds = Rounds(trainer, model, dist_model, stream)
            rounds.before_training()
            trainer.checkpoint_writer.rehearse(trainer.capture_state(model))
        if state.is_resumed:
            trainer.log_writer.discard()  # an earlier attempt has logged the metrics of before_training
        state.has_ended = False
        with rounds.draining():
            rounds.commit()
            _updates(trainer, model, dist_model, rounds, stream)
            _end(trainer, rounds)


def _updates(
    trainer: TrainerParts,
    model: ModelBase,
    dist_model: torch.nn.Module,
    rounds: Rounds,
    stream: Iterator[TaggedBatch],
) -> None:
    """Do updates until the limit or a stop; on return the metrics of the last one are written.

    A checkpoint that was asked for in the last update is left pending: it becomes one with that of the end.
    """
    state, signals, update, dispatch = trainer.state, trainer.signals, trainer.one_update, rounds.dispatch
    counter, logged, saves = state.counter, trainer.log_writer.round, trainer.checkpoint_writer.queue
    late = trainer.log_writer.late.waiting
    samples, updates_per_epoch, end_update = counter.effective_batch_size, counter.updates_per_epoch, counter.end_update
    track_update = dispatch.track_after_update_step
    calls_always = dispatch.after_update_always is not None or dispatch.after_epoch_always is not None
    state.seconds = seconds = defaultdict(float, state.seconds)
    _begin_updates(trainer, model, dist_model, dispatch)
    if state.round_to_repeat is not None:
        _repeat_round(trainer, rounds, state.round_to_repeat)
    ranks = trainer.parallel if trainer.parallel.world > 1 else None
    may_stop = ranks is not None and may_change_at_every_update(trainer)
    if ranks is not None:
        agree_on_stop(trainer, now=True)
    if signals.received is not None and state.stopped_by is None:  # it came while the run began
        stop_for_signal(state, signals, is_over=state.stop_reason is not None or counter.is_finished)
    ends = counter.is_finished or state.stop_reason is not None
    while not ends:
        if update.is_scheduled:
            model.optimizer_schedule_step(counter.update)
        try:
            _, _, applied = update(stream)
        except BaseException:
            trainer.log_writer.discard()  # metrics of an update that was not completed
            raise
        counter.sample += samples
        counter.update += 1
        if counter.update % updates_per_epoch == 0:
            counter.epoch += 1
        times = update.times
        for part in times:
            seconds[part] += times[part]
        if applied is False:
            rounds.give_up_if_not_finite()
        elif track_update is not None:
            track_update(counter, times)
        if calls_always or counter.update >= rounds.due:
            rounds.after_update()
        if ranks is not None:
            agree_on_stop(trainer, now=may_stop or rounds.last == counter.update or counter.update >= end_update)
        if signals.received is not None:
            stop_for_signal(state, signals, is_over=state.stop_reason is not None or counter.update >= end_update)
        ends = counter.update >= end_update or state.stop_reason is not None
        if logged.has_values or late or saves.pending is not None or saves.in_flight is not None:
            boundary(trainer, rounds, ends=ends)
    rounds.read_flags()


def boundary(trainer: TrainerParts, rounds: Rounds, *, ends: bool) -> None:
    """Write the metrics of an update as soon as their values are there, and commit the checkpoint that it asked for.

    Args:
        trainer: The trainer.
        rounds: The rounds of the run.
        ends: True after the last update, whose checkpoint the end of the run commits.
    """
    saves = trainer.checkpoint_writer.queue
    writer = trainer.log_writer
    if writer.round.has_values:
        rounds.send_flags()
        writer.flush(trainer.state.counter, waits=False)
    if writer.late.waiting:
        writer.late.poll()
    if ends:
        return
    if saves.in_flight is not None and saves.in_flight.has_ended:
        rounds.settle()
    if saves.pending is not None:
        rounds.commit()


def _end(trainer: TrainerParts, rounds: Rounds) -> None:
    """Call `after_training`, unless a signal ended the run before its end, and commit the last checkpoint."""
    state = trainer.state
    if state.stop_reason is not None:
        trainer.logger.info("training ends at %s: %s", state.counter.cur_iteration, state.stop_reason)
    if state.stopped_by is None:
        try:
            rounds.after_training()
        except Exception:
            if trainer.checkpoint_writer.pending is not None:
                trainer.log_writer.discard()  # the run continues from that checkpoint, and logs them again
            rounds.commit()  # the last update is complete, and its checkpoint may have been asked for
            raise
        state.has_ended = True
        warn_of_unread_metrics(rounds.model)
    trainer.checkpoint_writer.save("last")
    rounds.commit()


@torch.no_grad()
def evaluate(trainer: TrainerParts, model: ModelBase, dist_model: torch.nn.Module) -> None:
    """Call `at_eval` once, on the model as it is; a signal stops it between two batches, without metrics."""
    with _running(trainer, model), interruptible_evaluation(trainer):
        _evaluation(trainer, model, dist_model).at_eval()


@torch.no_grad()
def train_nothing(trainer: TrainerParts, model: ModelBase, dist_model: torch.nn.Module) -> None:
    """Call every callback once around an evaluation: a run with a limit of zero. A signal stops it as `evaluate`.

    It commits a checkpoint only if a callback asks for one.
    """
    state = trainer.state
    with _running(trainer, model):
        rounds = _evaluation(trainer, model, dist_model)
        with interruptible_evaluation(trainer):
            rounds.before_training()
            rounds.at_eval()
        if state.stopped_by is None:
            with rounds.draining():
                rounds.after_training()
                state.has_ended = True
                rounds.commit()


def _evaluation(trainer: TrainerParts, model: ModelBase, dist_model: torch.nn.Module) -> Rounds:
    """Return the rounds of a run without updates; their stream has one pass of each callback over data."""
    callbacks = iterator_callbacks(trainer.callbacks)
    stream = iter(trainer.get_data_loader(callbacks, trainer.batch_size, evaluation=True))
    return Rounds(trainer, model, dist_model, stream)


def _begin_updates(trainer: TrainerParts, model: ModelBase, dist_model: torch.nn.Module, dispatch: Dispatch) -> None:
    """Give the update the hooks to call within it; a hook without implementations is None and costs nothing."""
    before = dispatch.before_optimizer_step
    track = dispatch.track_after_accumulation_step
    trainer.one_update.begin(
        model,
        dist_model,
        before_optimizer_step=None if before is None else partial(before, trainer.state.counter),
        after_step=None if track is None else partial(track, trainer.state.counter),
    )


def _repeat_round(trainer: TrainerParts, rounds: Rounds, before_round: Mapping[str, Any]) -> None:
    """Finish the round of the resumed update, which an earlier session did not finish."""
    state, signals = trainer.state, trainer.signals
    state.round_to_repeat = None
    rounds.repeat(before_round)
    is_over = state.stop_reason is not None or state.counter.is_finished
    if signals.received is not None:
        stop_for_signal(state, signals, is_over=is_over)
    elif not is_over:
        rounds.commit()
    trainer.log_writer.flush(state.counter)


@contextmanager
def _running(trainer: TrainerParts, model: ModelBase) -> Iterator[ExitStack]:
    """Listen to signals and report that the run has started; in the end write the metrics, also after an error."""
    with trainer.signals, trainer.signals.interrupting(), ExitStack() as stack:
        stack.callback(_write_rest, trainer)
        if trainer.parallel.is_writer and trainer.dispatch is not None and trainer.dispatch.run_started is not None:
            with evaluating(model):
                call_hook(trainer.dispatch.run_started, run=trainer.run)
        yield stack


def _write_rest(trainer: TrainerParts) -> None:
    """Write all metrics, also after an error, which masked updates that nobody has counted yet do not replace."""
    with suppress(NonFiniteError):
        trainer.log_writer.late.settle()
    trainer.log_writer.flush(trainer.state.counter)


@contextmanager
def closing(callbacks: Sequence[CallbackBase]) -> Iterator[None]:
    """Close every callback and its children, last first, also after an error."""
    with ExitStack() as stack:
        for callback in family(callbacks):
            stack.callback(_close, callback)
        yield


def _close(callback: CallbackBase) -> None:
    with named(callback, "close"):
        callback.close()
