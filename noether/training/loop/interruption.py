"""A round that a stop interrupts: what its hooks may have changed is kept as it was, so that it can be repeated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from torch import Tensor

from noether.core.callbacks.tree import family
from noether.core.models.base import ModelBase
from noether.training.loop.state import files_of, states_of

if TYPE_CHECKING:
    from noether.training.trainers.base import BaseTrainer


class RoundInterrupted(BaseException):
    """A stop arrived between two batches of an evaluation pass.

    Derives from `BaseException`, so that no callback's `except Exception` takes it for a failure of the pass.
    """


class RoundStart:
    """What the hooks of a round may change, as it is before the first of them is called.

    Weights and optimizer are not among it: hooks of a round look at them, and put back what they exchange.

    Args:
        trainer: Whose round begins.
        model: The model, unwrapped.

    Attributes:
        states: The callbacks' `state_dict`s by id.
        files: The `state_files` by id, of those callbacks that may change them in a round.
        metrics: What the hooks of the update have logged before.
        nonscalars: The same of arrays, histograms and tables.
        stop_reason: Why training is to end after this update; None where it is not.
        last_loss: The loss of the update.
        grad_norms: Norms of its gradients by part of the model, where they are clipped.
    """

    def __init__(self, trainer: BaseTrainer, model: ModelBase) -> None:
        changing = [member for member in family(trainer.callbacks) if member.changes_files_in_rounds]
        self.states: Mapping[str, Any] = own(states_of(trainer.callbacks))
        self.files: Mapping[str, Mapping[str, Mapping[str, Tensor]]] = own(files_of(changing))
        self.metrics = dict(trainer.log_writer.round.scalars)
        self.nonscalars = dict(trainer.log_writer.round.nonscalars)
        self.stop_reason = trainer.stop_reason
        self.last_loss = trainer.last_loss
        self.grad_norms = {name: optimizer.last_grad_norm for name, optimizer in model.optimizers().items()}
        self._request = deepcopy(trainer.checkpoint_writer.queue.pending)
        self._names = dict(trainer.checkpoint_writer.names)

    def put_back(self, trainer: BaseTrainer) -> None:
        """Forget what the round has logged, asked for and named.

        The states stay here, for the checkpoint: callbacks are not asked to go back in a process that ends. So do the
        metrics, which the repeated round will write.
        """
        trainer.log_writer.discard()
        trainer.stop_reason = self.stop_reason
        writer = trainer.checkpoint_writer
        writer.queue.pending = self._request
        writer.names.clear()
        writer.names.update(self._names)

    def state_dict(self) -> dict[str, Any]:
        """Return what the repeated round needs to know beside the states of callbacks."""
        return {
            "metrics": self.metrics,
            "nonscalars": self.nonscalars,
            "stop_reason": self.stop_reason,
            "last_loss": self.last_loss,
            "grad_norms": self.grad_norms,
        }


@contextmanager
def interruptible(trainer: BaseTrainer, model: ModelBase) -> Iterator[None]:
    """Let a stop end the round inside between two batches; the round is pending then."""
    start = trainer.round_start = RoundStart(trainer, model)
    try:
        yield
    except RoundInterrupted:
        start.put_back(trainer)
        trainer.pending_round = start
    finally:
        trainer.round_start = None


def take_up(trainer: BaseTrainer, model: ModelBase, before_round: Mapping[str, Any]) -> None:
    """Put back what an interrupted round began with, as `RoundStart.state_dict` returned it."""
    optimizers = model.optimizers()
    for name, norm in before_round["grad_norms"].items():
        optimizers[name].last_grad_norm = norm
    trainer.last_loss = before_round["last_loss"]
    logged = trainer.log_writer.round
    logged.scalars.update(before_round["metrics"])
    logged.nonscalars.update(before_round["nonscalars"])
    logged.has_values = bool(logged.scalars or logged.nonscalars)
    trainer.stop_reason = before_round["stop_reason"]


def own(state: Any) -> Any:
    """Return a copy of a state that no later change in place reaches; tensors stay on their device."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, Mapping):
        return {key: own(value) for key, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(own(item) for item in state)
    return state  # what is left is immutable, or nothing that a checkpoint can keep
