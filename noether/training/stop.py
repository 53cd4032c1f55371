"""Stops: requests to end training, signals, and rounds that a signal interrupts between two batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from torch import Tensor

from noether.core.callbacks.tree import family
from noether.core.models.base import ModelBase
from noether.kernel.participant import Interruption
from noether.training.capture import files_of, states_of
from noether.training.signals import StopSignals
from noether.training.state import RunState, TrainerParts


class RoundInterrupted(Interruption):
    """A stop arrived between two batches of an evaluation pass."""


def begin_anew(state: RunState) -> None:
    """Forget the stop of an earlier training of the same trainer."""
    state.stop_reason = state.stopped_by = state.pending_round = None
    state.is_interruptible = False


def request_stop(state: RunState, reason: str) -> None:
    """End training at the next boundary; the first reason counts."""
    state.stop_reason = state.stop_reason or reason


def stop_for_signal(state: RunState, signals: StopSignals, *, is_over: bool = False) -> None:
    """End the run because a signal has arrived, unless it has come to its end anyway.

    Args:
        state: The run's state.
        signals: Signals that have arrived.
        is_over: True if no work is left. An interrupted round is work in any case.
    """
    if state.pending_round is not None or not is_over:
        state.stopped_by, state.stop_reason = signals.received, signals.name


def agree_on_stop(trainer: TrainerParts, *, now: bool) -> None:
    """Take over the signal and the stop of another rank; all ranks call it at the same boundaries.

    Args:
        trainer: The trainer.
        now: Act on the votes of this boundary; otherwise on those of the one before, which costs no waiting.
    """
    state, signals = trainer.state, trainer.signals
    number, stops = trainer.parallel.vote(signals.heard, state.stop_reason is not None, now=now)
    if number is not None:
        signals.receive(number)
    if stops and state.stop_reason is None:
        state.stop_reason = "another rank has ended training"


def raise_if_stopped(state: RunState, signals: StopSignals) -> None:
    """Interrupt the round under way if a signal has arrived; called between two batches of an evaluation pass.

    Raises:
        RoundInterrupted: if a signal has arrived.
    """
    if state.is_interruptible and signals.received is not None:
        raise RoundInterrupted(signals.name)


class RoundStart:
    """State that the hooks of a round may change, as it is before the first of them is called.

    Weights and optimizer are not part of it: hooks of a round read them, and put back the tensors that they exchange.

    Args:
        trainer: The trainer of the round.
        model: The model, unwrapped.

    Attributes:
        states: The callbacks' `state_dict`s by id.
        files: The `state_files` by id, of the callbacks that may change them in a round.
        metrics: Scalars that the hooks of the update have logged before.
        nonscalars: Arrays, histograms and tables that they have logged.
        results: Figures, tables, histograms and files that they have added.
        stop_reason: Reason to end training after this update; None without one.
        last_loss: The loss of the update.
        grad_norms: Norms of its gradients by part of the model, if they are clipped.
    """

    def __init__(self, trainer: TrainerParts, model: ModelBase) -> None:
        if trainer.log_writer.round.counts:
            trainer.log_writer.round.read()
        changing = [member for member in family(trainer.callbacks) if member.changes_files_in_rounds]
        self.states: Mapping[str, Any] = own(states_of(trainer.callbacks))
        self.files: Mapping[str, Mapping[str, Mapping[str, Tensor]]] = own(files_of(changing))
        self.metrics = dict(trainer.log_writer.round.scalars)
        self.nonscalars = dict(trainer.log_writer.round.nonscalars)
        self.results = dict(trainer.log_writer.round.results)
        self.stop_reason = trainer.state.stop_reason
        self.last_loss = trainer.one_update.last_loss
        self.grad_norms = {name: optimizer.last_grad_norm for name, optimizer in model.optimizers().items()}
        self._request = deepcopy(trainer.checkpoint_writer.queue.pending)
        self._names = dict(trainer.checkpoint_writer.names)

    def put_back(self, trainer: TrainerParts) -> None:
        """Discard the round's metrics, its request for a checkpoint and the names that it gave.

        The states stay here for the checkpoint: callbacks do not go back in a process that ends. So do the metrics of
        before, which the repeated round writes.
        """
        trainer.log_writer.discard()
        state, writer = trainer.state, trainer.checkpoint_writer
        state.stop_reason = self.stop_reason
        writer.queue.pending = self._request
        writer.names.clear()
        writer.names.update(self._names)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that the repeated round begins with, beside the states of callbacks."""
        return {
            "metrics": self.metrics,
            "nonscalars": self.nonscalars,
            **({"results": self.results} if self.results else {}),
            "stop_reason": self.stop_reason,
            "last_loss": self.last_loss,
            "grad_norms": self.grad_norms,
        }


@contextmanager
def interruptible(trainer: TrainerParts, model: ModelBase) -> Iterator[None]:
    """Let a signal end the round inside between two batches; the round is pending then."""
    start, state = RoundStart(trainer, model), trainer.state
    state.is_interruptible = True
    try:
        yield
    except RoundInterrupted:
        start.put_back(trainer)
        state.pending_round = start
    finally:
        state.is_interruptible = False


@contextmanager
def interruptible_evaluation(trainer: TrainerParts) -> Iterator[None]:
    """Let a signal end an evaluation between two batches; its metrics are discarded, and the run is stopped."""
    state, signals = trainer.state, trainer.signals
    state.is_interruptible = True
    try:
        raise_if_stopped(state, signals)  # it may have arrived while the run was put together
        yield
    except RoundInterrupted:
        trainer.log_writer.discard()
        stop_for_signal(state, signals)
    finally:
        state.is_interruptible = False


def take_up(trainer: TrainerParts, model: ModelBase, before_round: Mapping[str, Any]) -> None:
    """Put back the state that an interrupted round began with, as `RoundStart.state_dict` returned it."""
    optimizers, state = model.optimizers(), trainer.state
    for name, norm in before_round["grad_norms"].items():
        optimizers[name].last_grad_norm = norm
    trainer.one_update.recall(before_round["last_loss"])
    logged = trainer.log_writer.round
    logged.scalars.update(before_round["metrics"])
    logged.nonscalars.update(before_round["nonscalars"])
    logged.results.update(before_round.get("results", {}))
    logged.has_values = bool(logged.scalars or logged.nonscalars or logged.results)
    state.stop_reason = before_round["stop_reason"]


def own(state: Any) -> Any:
    """Return a copy of a state that later changes in place do not reach; tensors stay on their device."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, Mapping):
        return {key: own(value) for key, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(own(item) for item in state)
    return state  # anything else is immutable, or cannot be kept in a checkpoint
