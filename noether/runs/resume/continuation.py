"""The checkpoint from which a run continues, and the files that would contradict it: moved aside, or repaired."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from noether.checkpoint.durable import make_folders, remove_tree, rename, replace_file, storage_error, sync_folder
from noether.checkpoint.paths import (
    ABANDONED,
    PathProvider,
    abandoned_checkpoints,
    checkpoint_folders,
    read_manifest,
    set_aside,
    update_of,
)
from noether.checkpoint.retention import FOLDER as PINS
from noether.checkpoint.saved import LATEST, Checkpoint, CheckpointNames, SavedCheckpoint
from noether.checkpoint.state import CheckpointState
from noether.checkpoint.untrusted import is_file_inside, is_folder, names_inside, read_untrusted
from noether.config.components import InitializerConfig
from noether.core.initializers.weights import InitializerBase
from noether.core.models.base import ModelBase
from noether.core.protocols import RunningTrainer
from noether.errors import CheckpointError, SpecError, StorageError
from noether.kernel.names import free_name
from noether.metrics.metrics_file import MetricRecord, MetricsFile
from noether.metrics.results import RESULTS, RESULTS_INDEX
from noether.metrics.values import NONSCALARS
from noether.runs.folder.lock import RunLock
from noether.runs.folder.run_folder import RUN, read_run, recent_attempts, record_path, require_version
from noether.runs.saved_spec import SPEC_SHA256, copy_in_checkpoint, read_spec_file
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


@dataclass(frozen=True, slots=True)
class Damage:
    """A damaged file of a run folder.

    Attributes:
        path: The file; it may be missing.
        reason: The damage.
        restored: Its content, if a checkpoint holds it; None to do without it.
        origin: Name of that checkpoint.
    """

    path: Path
    reason: str
    restored: bytes | None = None
    origin: str = ""

    def __str__(self) -> str:
        """Return the damage and the remedy as one line."""
        remedy = f"; restored from {self.origin}" if self.origin else ""
        return f"{self.path.name} {self.reason}{remedy}"


def repair_run(paths: PathProvider) -> list[str]:
    """Repair a run that no process works on; see `repair`.

    Raises:
        UsageError: if a process works on it.
    """
    with RunLock(paths.run_path):
        return repair(paths)


def repair(paths: PathProvider) -> list[str]:
    """Set damaged files of a locked run aside and restore what can be restored; return a line for each.

    Lines of the metrics files are repaired when the run continues, because their length is that of a checkpoint.

    Raises:
        UsageError: if another version of Noether wrote it.
        StorageError: if the disk refuses.
    """
    require_version(paths.run_path)
    lines = []
    for damage in damages(paths):
        aside = set_aside(paths.run_path, damage.path) if os.path.lexists(damage.path) else None
        if damage.restored is not None:
            replace_file(damage.path, damage.restored, inside=paths.run_path)
        lines.append(f"{damage}{f'; the damaged one is {aside}' if aside else ''}")
    return lines


def damages(paths: PathProvider) -> list[Damage]:
    """Return the damaged files of a run folder, and change nothing."""
    found = [*_of_other_types(paths)]
    if checkpoint_folders(paths.checkpoint_path):
        found += [*_of_record(paths), *_of_attempts(paths), *_of_spec(paths)]
    return found


def _of_other_types(paths: PathProvider) -> Iterator[Damage]:
    nonscalars, index = (paths.metrics_path.with_name(name) for name in (NONSCALARS, RESULTS_INDEX))
    appended = (paths.log_path, paths.metrics_path, nonscalars, index)
    for path in (*appended, paths.spec_path):
        if os.path.lexists(path) and not is_file_inside(paths.run_path, path):
            yield Damage(path, "is not a regular file")
        elif path in appended and os.path.lexists(path) and (names := path.lstat().st_nlink) > 1:  # a copy by `cp -l`
            reason = f"has {names} names (hard links), and is replaced by a copy"
            yield Damage(path, reason, _content(paths, path))
    folders = (paths.attempts_path, paths.checkpoint_path / PINS, paths.spool_path)
    for path in (*folders, paths.run_path / ABANDONED, paths.run_path / RESULTS):
        if os.path.lexists(path) and not is_folder(path):
            yield Damage(path, "is not a folder")


def _content(paths: PathProvider, path: Path) -> bytes:
    try:
        return read_untrusted(paths.run_path, path)
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot read {path}: {error}") from error


def _of_record(paths: PathProvider) -> Iterator[Damage]:
    """Yield `run.json` if it cannot be read; the next attempt adds the facts of the run."""
    if not read_run(paths.run_path):
        path, mark = paths.run_path / RUN, {"format": 1, "run_id": paths.run_id, "created": time.time()}
        reason = _reason(path, "cannot be read, or is not what was written")
        yield Damage(path, reason, (json.dumps(mark, indent=1) + "\n").encode())


def _of_attempts(paths: PathProvider) -> Iterator[Damage]:
    """Yield the records of attempts that cannot be read; the number of an attempt is not used again."""
    for attempt in recent_attempts(paths.attempts_path) if is_folder(paths.attempts_path) else ():
        if not attempt.record:
            path, mark = record_path(paths.attempts_path, attempt.number), b'{"status": "RUNNING"}\n'
            yield Damage(path, "(the record of an attempt) cannot be read", mark)


def _reason(path: Path, damage: str = "cannot be read") -> str:
    return damage if os.path.lexists(path) else "is missing"


def _of_spec(paths: PathProvider) -> Iterator[Damage]:
    """Yield the resolved spec if it cannot be read, or is not what an attempt or a checkpoint has recorded.

    A changed byte may leave a valid spec of another training.
    """
    path, copy = paths.resolved_spec_path, copy_in_checkpoint(paths)
    try:
        if read_spec_file(paths).sha256 in _recorded_specs(paths) or copy is None:
            return
        reason = "is not what was written; use -s to change settings"
    except SpecError:
        reason = _reason(path)
    if copy is not None:
        yield Damage(path, reason, _content(paths, copy), copy.parent.name)
    elif os.path.lexists(path):
        yield Damage(path, reason)


def _recorded_specs(paths: PathProvider) -> set[str]:
    """Return hashes of the specs of all attempts and checkpoints."""
    attempts = recent_attempts(paths.attempts_path) if is_folder(paths.attempts_path) else ()
    hashes = {str(attempt.record.get(SPEC_SHA256)) for attempt in attempts}
    for folder in checkpoint_folders(paths.checkpoint_path):
        with suppress(CheckpointError):  # the resume names it
            hashes.add(read_manifest(folder).spec_sha256)
    return hashes
