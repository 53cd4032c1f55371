"""Puts the state of a saved step back in place, all of it and in the order in which it has to be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from noether.checkpoint.paths import PathProvider, ResumptionPaths
from noether.checkpoint.saved import SavedCheckpoint
from noether.checkpoint.state import CheckpointState
from noether.core.callbacks.nested import family
from noether.core.models.base import ModelBase
from noether.core.models.weights import match_weights
from noether.errors import CheckpointError
from noether.training.loop.blame import blamed_on
from noether.training.loop.capture import restore_rng
from noether.training.loop.fitting import require_fitting
from noether.training.loop.state import named

if TYPE_CHECKING:
    from noether.training.trainers.base import BaseTrainer

_OTHER_MODEL = 'take the weights alone with initializer kind = "checkpoint", which can leave out and rename'


def restore_step(trainer: BaseTrainer, model: ModelBase, step: SavedCheckpoint, state: CheckpointState) -> None:
    """Let a trainer and its model go on from a saved step.

    Optimizers and callbacks must have been built, and no hook may have been called. The random generators come last,
    so that nothing before can move them on.

    Where the step is one of the trainer's own run, its metrics are cut back to it and its names hold on. A run that
    takes over the state of another one has a metrics file and steps of its own, which begin here.

    Args:
        trainer: Its counters, scaler, callbacks and data are restored.
        model: The unwrapped model, with its optimizers.
        step: The step.
        state: What `step.state()` returned.

    Raises:
        CheckpointError: The state is for another model, for a run of other sizes, or for none.
    """
    require_fitting(trainer, step, state)
    with blamed_on(step.folder):
        _restore(trainer, model, step, state)


def _restore(trainer: BaseTrainer, model: ModelBase, step: SavedCheckpoint, state: CheckpointState) -> None:
    _restore_model(model, state.model, step)
    if model.optimizers():  # an evaluation has none
        restore_optimizers(model, state.optimizer_tensors, state.optimizer_values)
    trainer_state = {**state.trainer, "callbacks": state.callbacks}
    paths = resumption_paths(step)
    trainer.is_resumed = _is_own(paths, trainer.path_provider)
    metrics_until = trainer_state.pop("log_writer", None)
    trainer.load_state_dict(trainer_state)
    if trainer.update_counter.update and any(optimizer.scheduled for optimizer in model.optimizers().values()):
        model.optimizer_schedule_step(trainer.update_counter.update - 1)  # the rates that the last update was made with
    for callback in family(trainer.callbacks):
        with named(callback, "resume_from_checkpoint"):
            callback.resume_from_checkpoint(paths, model)
    trainer.data_container.load_state_dict(state.data)
    restore_rng(state.rank)
    if trainer.is_resumed:  # now that nothing can fail any more: what is cut off cannot be put back
        trainer.checkpoint_writer.continue_from(step.folder, step.manifest)
        trainer.log_writer.load_state_dict(metrics_until)


def restore_optimizers(model: ModelBase, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Give each optimizer of a model, one or those of a composite's parts, its saved state.

    Args:
        model: With its optimizers.
        tensors: As in `CheckpointState.optimizer_tensors`.
        values: As in `CheckpointState.optimizer_values`.

    Raises:
        CheckpointError: The state is for other parts or parameters.
    """
    optimizers = model.optimizers()
    if optimizers.keys() != values.keys():
        raise CheckpointError(
            f"the checkpoint has optimizers for {_listed(values)}, but the model has them for {_listed(optimizers)}",
            hint=_OTHER_MODEL,
        )
    for name, optimizer in optimizers.items():
        start = f"{name}/"
        own = {key.removeprefix(start): tensor for key, tensor in tensors.items() if key.startswith(start)}
        optimizer.load_state(own, values[name])


def resumption_paths(step: SavedCheckpoint) -> ResumptionPaths:
    """Return the paths of the run that a step belongs to."""
    run = step.folder.resolve().parent.parent
    return ResumptionPaths(run.parent, run.name, step.folder)


def _restore_model(model: ModelBase, tensors: Mapping[str, Tensor], step: SavedCheckpoint) -> None:
    match = match_weights(model, tensors)
    match.require_complete(str(step.folder), hint=_OTHER_MODEL)
    match.load_into(model)


def _is_own(paths: ResumptionPaths, own: PathProvider) -> bool:
    return paths.run_path == own.run_path.resolve()


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"
