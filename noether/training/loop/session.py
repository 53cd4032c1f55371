"""From the first hook to the last checkpoint: training or evaluation of one assembled trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from noether.core.callbacks import tree
from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.iterating import iterator_callbacks
from noether.core.callbacks.tree import family
from noether.core.models.base import ModelBase
from noether.data.randomness import preserved_rng
from noether.kernel.dispatch import Dispatch
from noether.training.loop.epoch import TrainingLoop
from noether.training.loop.rounds import Rounds
from noether.training.loop.state import named

if TYPE_CHECKING:
    from noether.training.trainers.base import BaseTrainer


# Saving the generators costs more than most of these hooks, so only those who say that they draw from them pay for it.
_EVERY_UPDATE = ("before_optimizer_step", "track_after_accumulation_step", "track_after_update_step")


@torch.no_grad()
def train(trainer: BaseTrainer, model: ModelBase) -> None:
    """Train from where the trainer stands; every way to end that is not an error commits a checkpoint."""
    dispatch = _dispatch(trainer)
    trainer.step.adopt(model)
    with _running(trainer):
        trainer.checkpoint_writer.prepare()
        with preserved_rng():  # those of a resumed run stand where they have to by now
            dist_model = trainer.wrap_model(model).train()
            loader = trainer.get_data_loader(iterator_callbacks(trainer.callbacks), trainer.batch_size)
            loop = TrainingLoop(trainer, model, dist_model, dispatch, iter(loader))
            trainer.call_before_training(trainer.callbacks)
            trainer.checkpoint_writer.rehearse(trainer.capture_state(model))
        if trainer.is_resumed:
            trainer.log_writer.discard()  # an earlier attempt has logged what is known before training
        trainer.has_ended = False
        with loop.rounds.draining():
            _train(trainer, loop)


def _train(trainer: BaseTrainer, loop: TrainingLoop) -> None:
    loop.rounds.commit()
    loop.run()
    if trainer.stop_reason is not None:
        trainer.logger.info("training ends at %s: %s", trainer.update_counter.cur_iteration, trainer.stop_reason)
    if trainer.stopped_by is None:
        try:
            with preserved_rng():
                trainer.call_after_training(trainer.callbacks)
        except Exception:
            loop.rounds.commit()  # the last update is complete, and its checkpoint may have been asked for
            raise
        trainer.has_ended = True
    trainer.checkpoint_writer.save("last")
    loop.rounds.commit()


@torch.no_grad()
def evaluate(trainer: BaseTrainer, model: ModelBase) -> None:
    """Call what evaluates once, on the model as it is."""
    dispatch = _dispatch(trainer)
    was_training = model.training
    with _running(trainer):
        dist_model = trainer.wrap_model(model).eval()
        callbacks = iterator_callbacks(trainer.callbacks)
        stream = iter(trainer.get_data_loader(callbacks, trainer.batch_size, evaluation=True))
        rounds = Rounds(trainer, model, dispatch, stream, dist_model)
        rounds.at_eval()
        trainer.log_writer.flush(trainer.update_counter)
    model.train(was_training)


def build_callbacks(trainer: BaseTrainer, model: ModelBase) -> list[CallbackBase]:
    """Build all callbacks; what their constructors draw from the generators is put back."""
    with preserved_rng():
        return trainer.get_all_callbacks(model)


def compile_hooks(trainer: BaseTrainer, model: ModelBase) -> None:
    """Compile the hooks of the trainer's callbacks and plugins.

    Raises:
        PluginError: if an implementation cannot work.
    """
    dispatch = tree.compile_hooks(trainer.callbacks, trainer.plugins, on_stop=trainer.request_stop)
    for hook in _EVERY_UPDATE:
        if any(getattr(found.instance, "draws_every_update", False) for found in dispatch.participants(hook)):
            setattr(dispatch, hook, partial(_call, getattr(dispatch, hook)))
    trainer.dispatch = dispatch
    trainer.step.before_optimizer_step = dispatch.before_optimizer_step


def _call(hook: Callable[..., Any] | None, *args: Any, **kwargs: Any) -> None:
    """Call a hook that is no part of a round; what it draws from the generators is put back."""
    if hook is not None:
        with preserved_rng():
            hook(*args, **kwargs)


def _dispatch(trainer: BaseTrainer) -> Dispatch:
    assert trainer.dispatch is not None, "hooks are compiled before"
    return trainer.dispatch


@contextmanager
def _running(trainer: BaseTrainer) -> Iterator[None]:
    """Listen to signals and tell that the run has started; in the end keep the metrics, whatever happened."""
    with trainer.signals, trainer.signals.interrupting(), ExitStack() as stack:
        stack.callback(trainer.log_writer.flush, trainer.update_counter)
        if trainer.dispatch is not None and trainer.dispatch.run_started is not None:
            _call(trainer.dispatch.run_started, run=trainer.run)
        yield


@contextmanager
def closing(callbacks: Sequence[CallbackBase]) -> Iterator[None]:
    """Close every callback and its children, last first, whatever happens inside."""
    with ExitStack() as stack:
        for callback in family(callbacks):
            stack.callback(_close, callback)
        yield


def _close(callback: CallbackBase) -> None:
    with named(callback, "close"):
        callback.close()
