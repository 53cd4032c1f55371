"""What a trainer remembers across a resume, beside weights and optimizer."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.tree import family
from noether.kernel.names import did_you_mean
from noether.training.loop.fitting import SIZES

if TYPE_CHECKING:
    from noether.training.trainers.base import BaseTrainer

_LOG = logging.getLogger("noether.resume")


def state_of(trainer: BaseTrainer) -> dict[str, Any]:
    """Return progress, scaler, position in the metrics, and the callbacks' states by id."""
    counter, scaler = trainer.update_counter, trainer.precision.scaler
    pending = trainer.pending_round
    before_round = trainer.round_to_repeat if pending is None else pending.state_dict()
    return {
        "epoch": counter.epoch,
        "update": counter.update,
        "sample": counter.sample,
        **{size: getattr(counter, size) for size in SIZES},
        "skipped_in_a_row": trainer.skip_nan_loss_counter,
        "grad_scaler": scaler.state_dict() if scaler else None,
        "log_writer": trainer.log_writer.state_dict(),
        "ended": trainer.has_ended,
        "round_pending": before_round is not None,
        "before_round": before_round,
        "callbacks": states_of(trainer.callbacks) if pending is None else pending.states,
    }


def states_of(callbacks: Sequence[CallbackBase]) -> dict[str, Any]:
    """Return the `state_dict`s of callbacks, nested ones too, by id; those that have none are left out."""
    states = {}
    for callback in family(callbacks):
        with named(callback, "state_dict"):
            if (state := callback.state_dict()) is not None:
                states[callback.id] = state
    return states


def files_of(callbacks: Iterable[CallbackBase]) -> dict[str, Mapping[str, Mapping[str, Tensor]]]:
    """Return the `state_files` of exactly these callbacks by id; those that have none are left out."""
    found = {}
    for callback in callbacks:
        with named(callback, "state_files"):
            if files := callback.state_files():
                found[callback.id] = files
    return found


@contextmanager
def named(callback: CallbackBase, method: str) -> Iterator[None]:
    """Note on an error which callback raised it, in a method that is not a hook; of hooks, that is noted elsewhere."""
    try:
        yield
    except (Exception, SystemExit) as error:
        # A callback that is built by hand may know no trainer.
        counter = getattr(getattr(callback, "trainer", None), "update_counter", None)
        where = f" at update {counter.update}" if counter is not None else ""
        error.add_note(f"raised by callback '{callback.id}' in {method}{where}")
        raise


def restore(trainer: BaseTrainer, state: dict[str, Any]) -> None:
    """Take back what `state_of` returned; the callbacks must have been built.

    Without a `log_writer` in it, as where another run's state is taken over, the metrics stay as they are.
    """
    counter, scaler = trainer.update_counter, trainer.precision.scaler
    counter.epoch, counter.update, counter.sample = (state[unit] for unit in ("epoch", "update", "sample"))
    trainer.finite_guard.in_a_row = state["skipped_in_a_row"]
    trainer.has_ended = state["ended"]
    if scaler is not None and state["grad_scaler"] is not None:
        scaler.load_state_dict(state["grad_scaler"])
    if state["round_pending"]:
        trainer.round_to_repeat = state["before_round"]
    if "log_writer" in state:
        trainer.log_writer.load_state_dict(state["log_writer"])
    restore_callbacks(trainer.callbacks, state["callbacks"])


def restore_callbacks(callbacks: Sequence[CallbackBase], states: Mapping[str, Any]) -> None:
    """Give each callback, nested ones too, the state that was saved under its id; tell what has no counterpart."""
    by_id = {callback.id: callback for callback in family(callbacks)}
    for identifier in sorted(states.keys() - by_id.keys()):
        _LOG.warning(
            "the checkpoint has a state of callback '%s', which this run has not; it is left alone.%s",
            identifier,
            did_you_mean(identifier, by_id.keys() - states.keys()),
        )
    for identifier, callback in by_id.items():
        if identifier in states:
            _restore_callback(callback, states[identifier])
        elif callback.state_dict() is not None:
            _LOG.warning("the checkpoint has no state of callback '%s'; it begins anew", identifier)


def _restore_callback(callback: CallbackBase, state: dict[str, Any]) -> None:
    with named(callback, "load_state_dict"):
        callback.load_state_dict(state)
