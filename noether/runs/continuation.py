"""Where a run that exists goes on: at one of its checkpoints, at its beginning, or nowhere as it has finished."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from noether.checkpoint.durable import make_folders, rename, storage_error, sync_folder
from noether.checkpoint.folder import checkpoint_folders, update_of
from noether.checkpoint.names import LATEST, Checkpoint, CheckpointNames
from noether.checkpoint.paths import PathProvider
from noether.checkpoint.saved import SavedCheckpoint
from noether.checkpoint.state import CheckpointState
from noether.core.initializers.base import InitializerBase, InitializerConfig
from noether.core.models.base import ModelBase
from noether.core.protocols import RunningTrainer
from noether.core.utils.free_name import free_name
from noether.errors import CheckpointError
from noether.metrics.metrics_file import MetricRecord, MetricsFile
from noether.training.loop.fitting import require_fitting
from noether.training.loop.verify_restored import verify_restored
from noether.training.trainers.base import BaseTrainer

AUTO, NONE = "auto", "none"
_LOG = logging.getLogger("noether.resume")


@dataclass(frozen=True, slots=True)
class SavedState:
    """A step that was read whole.

    Attributes:
        step: The step.
        state: What it holds.
    """

    step: SavedCheckpoint
    state: CheckpointState

    @classmethod
    def read(cls, checkpoint: Checkpoint) -> SavedState:
        """Read and check everything that a run needs to go on."""
        return cls(checkpoint.saved, checkpoint.saved.state())


def find_state(paths: PathProvider, resume: str) -> SavedState | None:
    """Return the state that a run goes on with; None where it has not saved any and begins anew.

    Nothing is changed by asking.

    Args:
        paths: Those of the run.
        resume: `auto` for its newest sound checkpoint, or the name of one.

    Raises:
        CheckpointError: There is no such checkpoint, or none that is sound.
    """
    steps = CheckpointNames(paths.checkpoint_path)
    if resume != AUTO:
        return steps.load(resume, SavedState.read)
    if not any(_may_be_whole(folder) for folder in checkpoint_folders(paths.checkpoint_path)):
        return None
    return steps.load(LATEST, SavedState.read)


def _may_be_whole(step: Path) -> bool:
    """Whether a step is, or was before it was damaged, more than a partial save, from which no run can go on."""
    try:
        return SavedCheckpoint.open(step).manifest.resumable
    except CheckpointError:
        return True


def move_newer_aside(paths: PathProvider, update: int) -> None:
    """Take the steps after `update` out of the way: training goes on before them, and no name must mean them.

    They are kept in `abandoned/` of the run, for who wants them back.

    Args:
        paths: Those of the run.
        update: Where training goes on; -1 for a run that begins at its beginning.

    Raises:
        StorageError: The disk refused.
    """
    newer = [folder for folder in checkpoint_folders(paths.checkpoint_path) if update_of(folder) > update]
    if not newer:
        return
    abandoned = paths.run_path / "abandoned"
    try:
        make_folders(abandoned)
        for folder in newer:
            rename(folder, abandoned / free_name(folder.name, {path.name for path in abandoned.iterdir()}))
        sync_folder(abandoned)
        sync_folder(paths.checkpoint_path)
    except OSError as error:
        raise storage_error(error, abandoned) from error
    _LOG.info("newer checkpoints were moved to %s", abandoned)


def move_run_aside(paths: PathProvider) -> Path:
    """Take a whole run out of the way, so that another one can begin under its id; nothing is deleted.

    Returns:
        Where it is now.

    Raises:
        StorageError: The disk refused.
    """
    aside = paths.output_path / free_name(f"{paths.run_id}.before", {path.name for path in paths.output_path.iterdir()})
    try:
        rename(paths.run_path, aside)
        sync_folder(paths.output_path)
    except OSError as error:
        raise storage_error(error, paths.run_path) from error
    return aside


class Continuation(InitializerBase):
    """Puts a saved state of the same run in place.

    Args:
        saved: The state.
        same_spec: Whether the spec of training is that which it was saved with.
    """

    continues_a_run: ClassVar[bool] = True

    def __init__(self, saved: SavedState, *, same_spec: bool = True) -> None:
        super().__init__(InitializerConfig())
        self.saved = saved
        self.same_spec = same_spec

    def check(self, trainer: RunningTrainer) -> None:  # optional on purpose
        """Find out whether the run can go on from the state, before anything in its folder is replaced or moved.

        Raises:
            CheckpointError: The state counts in other sizes, or the run's limit lies before it.
        """
        assert isinstance(trainer, BaseTrainer), "runs are assembled with one"
        require_fitting(trainer, self.saved.step, self.saved.state)

    def initialize(self, trainer: RunningTrainer, model: ModelBase) -> None:
        """Restore everything, check that it is what was saved, and put what was saved after it out of the way.

        Raises:
            CheckpointError: It is the state of another model, or a part of it does not come back as it was saved.
        """
        trainer.restore_state(model, self.saved.step, self.saved.state)
        assert isinstance(trainer, BaseTrainer), "runs are assembled with one"
        verify_restored(trainer, model, self.saved.step, same_spec=self.same_spec)
        move_newer_aside(trainer.path_provider, self.saved.state.update)


def lost_updates(paths: PathProvider, update: int) -> int:
    """Return how many updates after `update` the run has metrics of: they are computed again."""
    last = max((record.update for record in _records(paths)), default=update)
    return max(last - update, 0)


def final_metrics(paths: PathProvider) -> dict[str, float]:
    """Return the last value of every metric of a run."""
    return {key: value for record in _records(paths) for key, value in record.metrics.items()}


def _records(paths: PathProvider) -> Iterator[MetricRecord]:
    return MetricsFile(paths.metrics_path).read()
