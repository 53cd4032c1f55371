"""Whether a run can go on from a saved state: the same updates, and a limit that lies ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noether.checkpoint.saved import SavedCheckpoint
from noether.checkpoint.state import CheckpointState
from noether.errors import CheckpointError

if TYPE_CHECKING:
    from noether.training.trainers.base import BaseTrainer

SIZES = ("effective_batch_size", "updates_per_epoch")
"""What the counts of a run mean; a state holds both beside them."""

_CURES = {
    "effective_batch_size": "continue with the effective_batch_size of that run",
    "updates_per_epoch": "continue with the training set of that run",
}
_WEIGHTS_ALONE = 'or take the weights alone with initializer kind = "checkpoint", which counts from zero'


def require_fitting(trainer: BaseTrainer, step: SavedCheckpoint, state: CheckpointState) -> None:
    """Check that the counts of a saved state mean in this run what they meant in its own.

    A run that only evaluates counts nothing, so any state fits.

    Args:
        trainer: It has restored nothing yet.
        step: The step, for what messages say.
        state: What `step.state()` returned.

    Raises:
        CheckpointError: An update or an epoch has another size, or the run's limit lies before the step.
    """
    if not trainer.total_training_updates:
        return
    for size in SIZES:
        saved, own = state.trainer.get(size), getattr(trainer.update_counter, size)
        if saved is not None and saved != own:
            raise CheckpointError(
                f"no run with {size} = {own} can go on from {step.folder}: that run had {size} = {saved}, so its "
                "epochs, updates and samples count something else",
                hint=f"{_CURES[size]}, {_WEIGHTS_ALONE}",
            )
    _require_later_limit(trainer, step)


def _require_later_limit(trainer: BaseTrainer, step: SavedCheckpoint) -> None:
    if step.manifest.update <= trainer.total_training_updates:
        return
    limits = trainer.config.end_iteration
    units = {"max_epochs": limits.epoch, "max_updates": limits.update, "max_samples": limits.sample}
    name, limit = next((name, value) for name, value in units.items() if value is not None)
    raise CheckpointError(
        f"{name} = {limit} lies before {step.manifest.iteration}, which the run is to go on from",
        hint=f"raise {name}, or choose an earlier checkpoint",
    )
