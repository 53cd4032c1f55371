"""What a trainer remembers across a resume, beside weights and optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noether.training.trainers.base import BaseTrainer


def state_of(trainer: BaseTrainer) -> dict[str, Any]:
    """Return progress, scaler, position in the metrics, and the callbacks' states by id."""
    counter, scaler = trainer.update_counter, trainer.precision.scaler
    states = {callback.id: callback.state_dict() for callback in trainer.callbacks}
    return {
        "epoch": counter.epoch,
        "update": counter.update,
        "sample": counter.sample,
        "skipped_in_a_row": trainer.finite_guard.in_a_row,
        "grad_scaler": scaler.state_dict() if scaler else None,
        "log_writer": trainer.log_writer.state_dict(),
        "callbacks": {identifier: state for identifier, state in states.items() if state is not None},
    }


def restore(trainer: BaseTrainer, state: dict[str, Any]) -> None:
    """Take back what `state_of` returned; the callbacks must have been built."""
    counter, scaler = trainer.update_counter, trainer.precision.scaler
    counter.epoch, counter.update, counter.sample = (state[unit] for unit in ("epoch", "update", "sample"))
    trainer.finite_guard.in_a_row = state["skipped_in_a_row"]
    if scaler is not None and state["grad_scaler"] is not None:
        scaler.load_state_dict(state["grad_scaler"])
    trainer.log_writer.load_state_dict(state["log_writer"])
    by_id = {callback.id: callback for callback in trainer.callbacks}
    for identifier, callback_state in state["callbacks"].items():
        by_id[identifier].load_state_dict(callback_state)
