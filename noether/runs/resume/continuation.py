"""The checkpoint from which a run continues, and moving aside the files that would contradict it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from noether.checkpoint.durable import make_folders, remove_tree, rename, storage_error, sync_folder
from noether.checkpoint.paths import ABANDONED, PathProvider, abandoned_checkpoints, checkpoint_folders, update_of
from noether.checkpoint.saved import LATEST, Checkpoint, CheckpointNames, SavedCheckpoint
from noether.checkpoint.state import CheckpointState
from noether.checkpoint.untrusted import names_inside
from noether.config.components import InitializerConfig
from noether.core.initializers.weights import InitializerBase
from noether.core.models.base import ModelBase
from noether.core.protocols import RunningTrainer
from noether.errors import CheckpointError
from noether.kernel.names import free_name
from noether.metrics.metrics_file import MetricRecord, MetricsFile
from noether.training.resume import require_fitting, verify_restored
from noether.training.trainers.base import BaseTrainer

AUTO, NONE = "auto", "none"
_KEPT_ABANDONED = 3
_LOG = logging.getLogger("noether.resume")


@dataclass(frozen=True, slots=True)
class SavedState:
    """A checkpoint that was read completely.

    Attributes:
        checkpoint: The checkpoint.
        state: Its content.
    """

    checkpoint: SavedCheckpoint
    state: CheckpointState

    @classmethod
    def read(cls, checkpoint: Checkpoint) -> SavedState:
        """Read and check everything that a run needs to continue."""
        return cls(checkpoint.saved, checkpoint.saved.state())


def find_state(paths: PathProvider, resume: str) -> SavedState | None:
    """Return the state with which a run continues; None if it has saved none and starts anew. Change nothing.

    Args:
        paths: Paths of the run.
        resume: `auto` for its newest sound checkpoint, or the name of one.

    Raises:
        CheckpointError: if there is no such checkpoint, or none that is sound.
    """
    names = CheckpointNames(paths.checkpoint_path)
    if resume != AUTO:
        return names.load(resume, SavedState.read)
    if not any(_may_be_whole(folder) for folder in checkpoint_folders(paths.checkpoint_path)):
        return None
    return names.load(LATEST, SavedState.read)


def _may_be_whole(checkpoint: Path) -> bool:
    """Return False for a partial save, from which no run can continue; True for a damaged checkpoint."""
    try:
        return SavedCheckpoint.open(checkpoint).manifest.resumable
    except CheckpointError:
        return True


def move_newer_aside(paths: PathProvider, update: int) -> None:
    """Move the checkpoints after `update` to `abandoned/`: training continues before them, and no name may find them.

    Of those that earlier resumes have moved there, the few that were moved last stay.

    Args:
        paths: Paths of the run.
        update: Update after which training continues; -1 for a run that starts anew.

    Raises:
        StorageError: if the disk refuses.
    """
    newer = [folder for folder in checkpoint_folders(paths.checkpoint_path) if update_of(folder) > update]
    if not newer:
        return
    abandoned = paths.run_path / ABANDONED
    try:
        make_folders(abandoned, inside=paths.run_path)
        for old in abandoned_checkpoints(paths.run_path)[:-_KEPT_ABANDONED]:
            remove_tree(old)
        for folder in newer:
            os.utime(folder, follow_symlinks=False)  # those that were moved last are the newest
            rename(folder, abandoned / free_name(folder.name, names_inside(paths.run_path, abandoned)))
        sync_folder(abandoned)
        sync_folder(paths.checkpoint_path)
    except OSError as error:
        raise storage_error(error, abandoned) from error
    _LOG.info("newer checkpoints were moved to %s", abandoned)


def move_run_aside(paths: PathProvider) -> Path:
    """Rename a whole run folder, so that another run can take its id; delete nothing.

    Returns:
        The new folder.

    Raises:
        StorageError: if the disk refuses.
    """
    aside = paths.output_path / free_name(f"{paths.run_id}.before", {path.name for path in paths.output_path.iterdir()})
    try:
        rename(paths.run_path, aside)
        sync_folder(paths.output_path)
    except OSError as error:
        raise storage_error(error, paths.run_path) from error
    return aside


class Continuation(InitializerBase):
    """Restore a saved state of the same run.

    Args:
        saved: The state.
        same_spec: True if training has the spec with which the state was saved.
    """

    continues_a_run: ClassVar[bool] = True

    def __init__(self, saved: SavedState, *, same_spec: bool = True) -> None:
        super().__init__(InitializerConfig())
        self.saved = saved
        self.same_spec = same_spec

    def check(self, trainer: RunningTrainer) -> None:
        """Check that the run can continue from the state, before anything in its folder is replaced or moved.

        Raises:
            CheckpointError: if the state counts in other sizes, or lies beyond the limit of the run.
        """
        assert isinstance(trainer, BaseTrainer), "runs are assembled with one"
        require_fitting(trainer, self.saved.checkpoint, self.saved.state)

    def initialize(self, trainer: RunningTrainer, model: ModelBase) -> None:
        """Restore everything, check it against the saved state, and move later checkpoints aside.

        Raises:
            CheckpointError: if the state is that of another model, or a part of it is not restored as it was saved.
        """
        trainer.restore_state(model, self.saved.checkpoint, self.saved.state)
        assert isinstance(trainer, BaseTrainer), "runs are assembled with one"
        verify_restored(trainer, model, self.saved.checkpoint, same_spec=self.same_spec)
        trainer.checkpoint_writer.folder.require_own()
        move_newer_aside(trainer.path_provider, self.saved.state.update)


def lost_updates(paths: PathProvider, update: int) -> int:
    """Return the number of updates after `update` that have metrics: they are computed again."""
    last = max((record.update for record in _records(paths)), default=update)
    return max(last - update, 0)


def final_metrics(paths: PathProvider) -> dict[str, float]:
    """Return the last value of every metric key of a run."""
    return {key: value for record in _records(paths) for key, value in record.metrics.items()}


def _records(paths: PathProvider) -> Iterator[MetricRecord]:
    return MetricsFile(paths.metrics_path).read(skips_damaged=True)
