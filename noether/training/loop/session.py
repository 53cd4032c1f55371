"""From the first hook to the last checkpoint: training or evaluation of one assembled trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.periodic import PeriodicDataIteratorCallback
from noether.core.models.base import ModelBase
from noether.data.randomness import preserved_rng
from noether.kernel.dispatch import Dispatch, compile_dispatch
from noether.training.callback_set import participants_of
from noether.training.loop.epoch import TrainingLoop
from noether.training.loop.rounds import Rounds

if TYPE_CHECKING:
    from noether.training.trainers.base import BaseTrainer


@torch.no_grad()
def train(trainer: BaseTrainer, model: ModelBase) -> None:
    """Train from where the trainer stands; every way to end that is not an error commits a checkpoint."""
    dispatch = _compile(trainer, model)
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
            _call(dispatch.after_training, trainer.update_counter)
        trainer.checkpoint_writer.save("last")
        loop.rounds.commit()


@torch.no_grad()
def evaluate(trainer: BaseTrainer, model: ModelBase) -> None:
    """Call what evaluates once, on the model as it is."""
    dispatch = _compile(trainer, model)
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


def _compile(trainer: BaseTrainer, model: ModelBase) -> Dispatch:
    dispatch = compile_dispatch([*participants_of(trainer.callbacks), *trainer.plugins])
    trainer.dispatch = dispatch
    trainer.step.before_optimizer_step = dispatch.before_optimizer_step
    trainer.step.parameters = [p for optimizer in model.optimizers().values() for p in optimizer.parameters]
    return dispatch


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
