"""Resume: check that a saved state fits a run, restore it, and compare the result with the saved state."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from noether.checkpoint.durable import Content
from noether.checkpoint.manifest import (
    OPTIMIZER,
    SHARDS,
    SPEC,
    WEIGHTS,
    FileRecord,
    index_file,
    part_file,
    whole_file,
)
from noether.checkpoint.paths import PathProvider, ResumptionPaths, read_file
from noether.checkpoint.save import SaveRequest
from noether.checkpoint.saved import SavedCheckpoint
from noether.checkpoint.shards import in_shards_of
from noether.checkpoint.state import TRAINER, CheckpointState, divided, encode_checkpoint
from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.tree import as_participant, family
from noether.core.models.agreement import give_saved_optimizers
from noether.core.models.base import ModelBase
from noether.core.models.weights import load_weights
from noether.data.randomness import mix, seed_sample
from noether.errors import CheckpointError, DataError, NoetherError, error_text, notes_of
from noether.kernel.names import did_you_mean
from noether.training.capture import named, restore_rng
from noether.training.forms import restore_form
from noether.training.state import SIZES, RunState, TrainerParts

_LOG = logging.getLogger("noether.resume")


@contextmanager
def blamed_on(checkpoint: Path) -> Iterator[None]:
    """Name the checkpoint in errors raised while its state is restored.

    A state that other code saved passes every hash and may still have the wrong shape.

    Raises:
        CheckpointError: if an error is raised; the message has its type, text and place, and its notes are kept.
    """
    try:
        yield
    except (CheckpointError, DataError) as error:
        if checkpoint.name in error.message:
            raise
        raise CheckpointError(
            f"the state in {checkpoint} cannot be restored: {error.message}", hint=error.hint
        ) from error
    except NoetherError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        explained = CheckpointError(
            f"the state in {checkpoint} cannot be restored: {error_text(error)[:_SHOWN]} "
            f"({frame.filename}:{frame.lineno})",
            hint="use a checkpoint of this run and the code that it was saved with; --traceback shows the whole error",
        )
        for note in notes_of(error):
            explained.add_note(note)
        raise explained from error


_SHOWN = 400  # characters of the original error in a message

_CURES = {
    "effective_batch_size": "resume with the effective_batch_size of that run",
    "updates_per_epoch": "resume with the training set of that run",
}
_WEIGHTS_ALONE = 'or load the weights alone with initializer kind = "checkpoint", which counts from zero'


def require_fitting(trainer: TrainerParts, checkpoint: SavedCheckpoint, state: CheckpointState) -> None:
    """Check that an update and an epoch of this run have the sizes of the run that saved the state.

    A run that only evaluates has no sizes, so any state fits.

    Args:
        trainer: A trainer before anything is restored.
        checkpoint: The checkpoint, for messages.
        state: Return value of `checkpoint.state()`.

    Raises:
        CheckpointError: if an update or an epoch has another size, or the run's limit lies before the checkpoint.
    """
    if not trainer.state.counter.end_update:
        return
    for size in SIZES:
        saved, own = state.trainer.get(size), getattr(trainer.state.counter, size)
        if saved is not None and saved != own:
            raise CheckpointError(
                f"cannot resume from {checkpoint.folder}: found {size} = {own}, expected {saved} as in its run",
                hint=f"{_CURES[size]}, {_WEIGHTS_ALONE}",
            )
    _require_later_limit(trainer, checkpoint)


def _require_later_limit(trainer: TrainerParts, checkpoint: SavedCheckpoint) -> None:
    if checkpoint.manifest.update <= trainer.state.counter.end_update:
        return
    limits = trainer.config.end_iteration
    units = {"max_epochs": limits.epoch, "max_updates": limits.update, "max_samples": limits.sample}
    name, limit = next((name, value) for name, value in units.items() if value is not None)
    raise CheckpointError(
        f"cannot resume from {checkpoint.manifest.iteration}: found {name} = {limit}, expected a later end",
        hint=f"raise {name}, or choose an earlier checkpoint",
    )


_OTHER_MODEL = 'load the weights alone with initializer kind = "checkpoint"; it can skip and rename tensors'


def restore_checkpoint(
    trainer: TrainerParts, model: ModelBase, checkpoint: SavedCheckpoint, state: CheckpointState
) -> None:
    """Restore a trainer and its model from a checkpoint.

    Optimizers and callbacks must have been built, and no hook may have been called. The random generators come last,
    so that nothing before can advance them.

    If the checkpoint is of the trainer's own run, its metrics are cut back to it and its names stay. A run that starts
    from the state of another one has metrics and checkpoints of its own, which begin here.

    Args:
        trainer: Its counters, scaler, callbacks and data are restored.
        model: The unwrapped model, with its optimizers.
        checkpoint: The checkpoint.
        state: Return value of `checkpoint.state()`.

    Raises:
        CheckpointError: if the state is for another model or for a run of other sizes, or if it is malformed.
    """
    require_fitting(trainer, checkpoint, state)
    with blamed_on(checkpoint.folder):
        _restore(trainer, model, checkpoint, state)


def _restore(trainer: TrainerParts, model: ModelBase, checkpoint: SavedCheckpoint, state: CheckpointState) -> None:
    load_weights(model, in_shards_of(model.state_dict(), state.model), checkpoint.folder, hint=_OTHER_MODEL)
    if model.optimizers():  # an evaluation has none
        counter = trainer.state.counter
        give_saved_optimizers(model, state.optimizer_values, (counter.end_update, counter.updates_per_epoch))
        restore_optimizers(model, _optimizer_tensors(model, state.optimizer_tensors), state.optimizer_values)
    trainer_state = {**state.trainer, "callbacks": state.callbacks}
    paths = resumption_paths(checkpoint)
    progress = trainer.state
    progress.is_resumed = _is_own(paths, trainer.path_provider)
    metrics_until = trainer_state.pop("log_writer", None)
    trainer.load_state_dict(trainer_state)
    if progress.counter.update and any(optimizer.scheduled for optimizer in model.optimizers().values()):
        model.optimizer_schedule_step(progress.counter.update - 1)  # the rates that the last update was made with
    for callback in family(trainer.callbacks):
        with named(callback, "resume_from_checkpoint"):
            callback.resume_from_checkpoint(paths, model)
    trainer.data_container.load_state_dict(state.data)
    if len(state.ranks) == trainer.parallel.world:
        restore_rng(state.ranks[trainer.parallel.rank])
    else:  # no rank of before; that of a run of one world would be the same after each restart
        seed_sample(mix(mix(trainer.data_container.seed, state.update), trainer.parallel.rank))
    if progress.is_resumed:  # now that nothing can fail any more: what is cut off cannot be put back
        trainer.checkpoint_writer.continue_from(checkpoint.folder, checkpoint.manifest)
        trainer.log_writer.load_state_dict(metrics_until, checkpoint.manifest.logs, checkpoint.manifest.update)


def _optimizer_tensors(model: ModelBase, saved: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return saved tensors of optimizers, those of the shape of their parameter sharded as it is."""
    parameters = {
        f"{part}/{name}": parameter
        for part, optimizer in model.optimizers().items()
        for name, parameter in zip(optimizer.names, optimizer.parameters, strict=True)
    }
    like = {name: parameters[of] for name in saved if (of := name.rpartition("/")[0]) in parameters}
    return in_shards_of(like, saved)


def restore_optimizers(model: ModelBase, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Restore the optimizers of a model: one, or those of a composite's parts.

    Args:
        model: With its optimizers.
        tensors: As in `CheckpointState.optimizer_tensors`.
        values: As in `CheckpointState.optimizer_values`.

    Raises:
        CheckpointError: if the state is for other parts or parameters.
    """
    optimizers = model.optimizers()
    if optimizers.keys() != values.keys():
        raise CheckpointError(
            f"wrong optimizers in the checkpoint: found those of {_listed(values)}, expected those of "
            f"{_listed(optimizers)}",
            hint=_OTHER_MODEL,
        )
    for name, optimizer in optimizers.items():
        start = f"{name}/"
        own = {key.removeprefix(start): tensor for key, tensor in tensors.items() if key.startswith(start)}
        optimizer.load_state(own, values[name])


def resumption_paths(checkpoint: SavedCheckpoint) -> ResumptionPaths:
    """Return the paths of the run that a checkpoint belongs to."""
    run = checkpoint.folder.resolve().parent.parent
    return ResumptionPaths(run.parent, run.name, checkpoint.folder)


def _is_own(paths: ResumptionPaths, own: PathProvider) -> bool:
    return paths.run_path == own.home.resolve()


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


_MATHEMATICS = (WEIGHTS, OPTIMIZER, "rank-")


def verify_restored(trainer: TrainerParts, model: ModelBase, checkpoint: SavedCheckpoint, *, same_spec: bool) -> None:
    """Compare the restored state with the checkpoint that it came from, byte by byte.

    Args:
        trainer: The restored trainer, before any hook is called.
        model: Its model.
        checkpoint: The checkpoint.
        same_spec: True if the spec is the one that it was saved with; otherwise options and callbacks may differ.

    Raises:
        CheckpointError: if a restored part differs from the saved one.
    """
    state = trainer.capture_state(model)
    if trainer.log_writer.is_repaired:
        saved = json.loads(read_file(checkpoint.folder, checkpoint.manifest, TRAINER))
        state = replace(state, trainer={**state.trainer, "log_writer": saved["trainer"]["log_writer"]})
    files, _ = encode_checkpoint(state, SaveRequest.whole())
    parts = divided(state, SaveRequest.whole(), trainer.parallel)
    if parts is not None:
        files |= {**parts.files, **parts.indexes}
    is_same_world = checkpoint.manifest.world_size == trainer.parallel.world
    for name, record in checkpoint.manifest.files.items():
        if name == SPEC or not (same_spec or whole_file(name).startswith(_MATHEMATICS)):
            continue
        if name.startswith("rank-") and not is_same_world:
            continue
        if _is_elsewhere(name, trainer.parallel.rank, files, is_comparable=is_same_world and parts is not None):
            continue
        if name not in files or FileRecord.of(files[name]) != record:
            raise _not_as_saved(name, files.get(name), checkpoint, trainer.callbacks)


def _is_elsewhere(name: str, rank: int, files: Mapping[str, Content], *, is_comparable: bool) -> bool:
    """Return True if a file is the part of another rank, or if the run divides the same tensors in another way."""
    whole = whole_file(name)
    if whole == name:
        return name not in files and index_file(name) in files
    return not is_comparable or (name.startswith(f"{SHARDS}/") and name != part_file(rank, whole))


def _not_as_saved(
    name: str, content: Content | None, checkpoint: SavedCheckpoint, callbacks: Sequence[CallbackBase]
) -> CheckpointError:
    place = name
    if name == TRAINER and isinstance(content, bytes):
        saved = json.loads(read_file(checkpoint.folder, checkpoint.manifest, name))
        place = f"{name} at {_first_difference(saved, json.loads(content))}"
    starts = ("callbacks.{}.", "callbacks/{}.")  # in the file of all states, and as a file of tensors
    owners = [one for one in family(callbacks) if any(start.format(one.id) in f"{place}." for start in starts)]
    owner = f", of {as_participant(max(owners, key=lambda one: len(one.id))).description}" if owners else ""
    return CheckpointError(
        f"the state restored from {checkpoint.folder} differs from the saved one in {place}{owner}",
        hint="restore in load_state_dict of a callback all that its state_dict returns, or resume without the callback",
    )


def _first_difference(saved: Any, restored: Any, path: str = "") -> str:
    """Return the path of the first value that differs between two trees."""
    if isinstance(saved, dict) and isinstance(restored, dict):
        for key in sorted(saved.keys() | restored.keys()):
            if saved.get(key) != restored.get(key):
                return _first_difference(saved.get(key), restored.get(key), f"{path}.{key}".removeprefix("."))
    return f"{path}: found {restored!r:.60}, expected {saved!r:.60}"


def restore_trainer(trainer: TrainerParts, state: Mapping[str, Any]) -> None:
    """Restore the state that `capture.trainer_state` returned, except the states of callbacks.

    Without `log_writer`, as in the state of another run, the metrics stay unchanged.
    """
    scaler = trainer.precision.scaler
    trainer.state.load_state_dict(state)
    trainer.one_update.guard.count_from(state["skipped_in_a_row"])
    restore_form(trainer, state.get("form"))
    if scaler is not None and state["grad_scaler"] is not None:
        scaler.load_state_dict(state["grad_scaler"])
    if "log_writer" in state and any(trainer.log_writer.state_dict().values()):  # a new run has nothing to cut back
        trainer.log_writer.load_state_dict(state["log_writer"])


def restore_callbacks(callbacks: Sequence[CallbackBase], states: Mapping[str, Any]) -> None:
    """Give each callback, nested ones too, the state saved under its id; warn about states without a callback."""
    by_id = {callback.id: callback for callback in family(callbacks)}
    for identifier in sorted(states.keys() - by_id.keys()):
        _LOG.warning(
            "state of callback '%s' in the checkpoint ignored: this run has no such callback.%s",
            identifier,
            did_you_mean(identifier, by_id.keys() - states.keys()),
        )
    for identifier, callback in by_id.items():
        if identifier in states:
            _restore_callback(callback, states[identifier])
        elif callback.state_dict() is not None:
            _LOG.warning("callback '%s' starts without a state: the checkpoint has none", identifier)


def _restore_callback(callback: CallbackBase, state: dict[str, Any]) -> None:
    with named(callback, "load_state_dict"):
        callback.load_state_dict(state)


class TakesState:
    """The methods of a trainer that restore its progress."""

    state: RunState
    callbacks: list[CallbackBase]
    _prepared: Any
    _callback_states: Mapping[str, Any] | None = None

    def stand_at(self, epoch: int, update: int, sample: int) -> None:
        """Set the counts of the run, for an evaluation of a checkpoint."""
        self.state.stand_at(epoch, update, sample)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned; callbacks that are not built yet get their states when they are."""
        restore_trainer(self._parts, state_dict)
        self._callback_states = state_dict["callbacks"]
        if self._prepared is not None:
            self._restore_callbacks()

    def _restore_callbacks(self) -> None:
        """Give callbacks that were just built the states that were loaded before."""
        states, self._callback_states = self._callback_states, None
        restore_callbacks(self.callbacks, states or {})

    def check_state(self, checkpoint: SavedCheckpoint, state: CheckpointState) -> None:
        """Check that this run can resume from a checkpoint and its `state()`, before anything is restored.

        Raises:
            CheckpointError: if an update or an epoch has another size here, or the run's limit lies before it.
        """
        require_fitting(self._parts, checkpoint, state)

    def restore_state(self, model: ModelBase, checkpoint: SavedCheckpoint, state: CheckpointState) -> None:
        """Go on from a checkpoint and its `state()`; optimizers and callbacks must have been built.

        Raises:
            CheckpointError: if the state is for another model.
        """
        restore_checkpoint(self._parts, model, checkpoint, state)

    @property
    def _parts(self) -> TrainerParts:
        return cast("TrainerParts", self)
