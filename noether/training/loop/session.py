"""From the first hook to the last checkpoint: training or evaluation of one assembled trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.periodic import PeriodicDataIteratorCallback
from noether.core.models.base import ModelBase
from noether.data.randomness import preserved_rng
from noether.kernel.dispatch import compile_dispatch
from noether.training.callback_set import participants_of
from noether.training.loop.epoch import TrainingLoop
from noether.training.loop.rounds import Rounds

if TYPE_CHECKING:
    from noether.training.trainers.base import BaseTrainer


# Saving the generators costs more than most of these hooks, so only those who say that they draw from them pay for it.
_EVERY_UPDATE = ("before_optimizer_step", "track_after_accumulation_step", "track_after_update_step")


@torch.no_grad()
def train(trainer: BaseTrainer, model: ModelBase) -> None:
    """Train from where the trainer stands; every way to end that is not an error commits a checkpoint."""
    dispatch = trainer.dispatch
    assert dispatch is not None, "hooks are compiled before"
    dist_model = trainer.wrap_model(model).train()
    with _closing(trainer), trainer.signals:
        loader = trainer.get_data_loader(iterator_callbacks(trainer.callbacks), trainer.batch_size)
        loop = TrainingLoop(trainer, model, dist_model, dispatch, iter(loader))
        trainer.checkpoint_writer.sweep()
        if dispatch.run_started is not None:
            _call(dispatch.run_started, run=trainer.run)
        _call(dispatch.before_training, trainer.update_counter)
        loop.rounds.commit()
        loop.run()
        if trainer.signals.received is None:
            try:
                _call(dispatch.after_training, trainer.update_counter)
            except Exception:
                loop.rounds.commit()  # the last update is complete, and its checkpoint may have been asked for
                raise
        trainer.checkpoint_writer.save("last")
        loop.rounds.commit()


@torch.no_grad()
def evaluate(trainer: BaseTrainer, model: ModelBase) -> None:
    """Call what evaluates once, on the model as it is."""
    dispatch = trainer.dispatch
    assert dispatch is not None, "hooks are compiled before"
    dist_model = trainer.wrap_model(model).eval()
    with _closing(trainer):
        callbacks = iterator_callbacks(trainer.callbacks)
        stream = iter(trainer.get_data_loader(callbacks, trainer.batch_size, evaluation=True))
        rounds = Rounds(trainer, model, dispatch, stream, dist_model)
        rounds.at_eval()
        trainer.log_writer.flush(trainer.update_counter)


def iterator_callbacks(callbacks: Sequence[CallbackBase]) -> list[PeriodicDataIteratorCallback]:
    """Return those that go through data sets, children included, in the order of their calls."""
    family = [member for callback in callbacks for member in (callback, *callback.get_children())]
    return [callback for callback in family if isinstance(callback, PeriodicDataIteratorCallback)]


def build_callbacks(trainer: BaseTrainer, model: ModelBase) -> list[CallbackBase]:
    """Build all callbacks; what their constructors draw from the generators is put back."""
    with preserved_rng():
        return trainer.get_all_callbacks(model)


def compile_hooks(trainer: BaseTrainer, model: ModelBase) -> None:
    """Compile the hooks of the trainer's callbacks and plugins.

    Raises:
        PluginError: An implementation cannot work.
    """
    participants = [*participants_of(trainer.callbacks), *trainer.plugins]
    dispatch = compile_dispatch(participants)
    drawing = {p.id for p in participants if getattr(p.instance, "draws_every_update", False)}
    for hook in _EVERY_UPDATE:
        if drawing.intersection(dispatch.order(hook)):
            setattr(dispatch, hook, partial(_call, getattr(dispatch, hook)))
    trainer.dispatch = dispatch
    trainer.step.before_optimizer_step = dispatch.before_optimizer_step
    trainer.step.parameters = [p for optimizer in model.optimizers().values() for p in optimizer.parameters]


def _call(hook: Callable[..., Any] | None, *args: Any, **kwargs: Any) -> None:
    """Call a hook that is no part of a round; what it draws from the generators is put back."""
    if hook is not None:
        with preserved_rng():
            hook(*args, **kwargs)


@contextmanager
def _closing(trainer: BaseTrainer) -> Iterator[None]:
    """Keep the metrics of an interrupted round, and close every callback whatever happened."""
    with ExitStack() as stack:
        for callback in reversed(trainer.callbacks):
            stack.callback(callback.close)
        stack.callback(trainer.log_writer.flush, trainer.update_counter)
        yield
