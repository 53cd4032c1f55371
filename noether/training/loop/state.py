"""What a trainer remembers across a resume, beside weights and optimizer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.nested import family
from noether.core.utils.nearest import did_you_mean
from noether.training.loop.fitting import SIZES

if TYPE_CHECKING:
    from noether.training.trainers.base import BaseTrainer

_LOG = logging.getLogger("noether.resume")


def state_of(trainer: BaseTrainer) -> dict[str, Any]:
    """Return progress, scaler, position in the metrics, and the callbacks' states by id."""
    counter, scaler = trainer.update_counter, trainer.precision.scaler
    states = {callback.id: callback.state_dict() for callback in family(trainer.callbacks)}
    return {
        "epoch": counter.epoch,
        "update": counter.update,
        "sample": counter.sample,
        **{size: getattr(counter, size) for size in SIZES},
        "skipped_in_a_row": trainer.skip_nan_loss_counter,
        "grad_scaler": scaler.state_dict() if scaler else None,
        "log_writer": trainer.log_writer.state_dict(),
        "callbacks": {identifier: state for identifier, state in states.items() if state is not None},
    }


def restore(trainer: BaseTrainer, state: dict[str, Any]) -> None:
    """Take back what `state_of` returned; the callbacks must have been built.

    Without a `log_writer` in it, as where another run's state is taken over, the metrics stay as they are.
    """
    counter, scaler = trainer.update_counter, trainer.precision.scaler
    counter.epoch, counter.update, counter.sample = (state[unit] for unit in ("epoch", "update", "sample"))
    trainer.finite_guard.in_a_row = state["skipped_in_a_row"]
    if scaler is not None and state["grad_scaler"] is not None:
        scaler.load_state_dict(state["grad_scaler"])
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
    try:
        callback.load_state_dict(state)
    except Exception as error:
        error.add_note(f"raised by callback '{callback.id}' while its saved state was restored")
        raise
