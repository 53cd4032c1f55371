"""Retention: the checkpoints that stay on the disk, and pins that protect one."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from noether.checkpoint import durable
from noether.checkpoint.folder import TRASH, checkpoint_folders, checkpoint_name, read_manifest, update_of
from noether.checkpoint.manifest import NewerFormatError
from noether.errors import CheckpointError

FOLDER = "pins"


def pin(checkpoints: Path, update: int) -> None:
    """Keep the step after `update` updates whatever retention says; pinning it twice changes nothing.

    The pin is made first and the step looked for then, as pruning removes a step first and looks for its pin then: so
    whichever comes first, a step that this returns for stays.

    Args:
        checkpoints: The folder of the step folders.
        update: The step's update.

    Raises:
        CheckpointError: There is no such step.
        StorageError: The disk refused.
    """
    folder, step = checkpoints / FOLDER, checkpoints / checkpoint_name(update)
    if not step.is_dir():
        raise _no_step(step)
    marker = folder / step.name
    try:
        if not folder.is_dir():
            durable.make_folders(folder)
        if not marker.exists():
            durable.write_new_file(marker, ())
        durable.sync_folder(folder)
    except OSError as error:
        raise durable.storage_error(error, marker) from error
    if not step.is_dir():
        unpin(checkpoints, update)
        raise _no_step(step)


def unpin(checkpoints: Path, update: int) -> bool:
    """Leave the step after `update` updates to retention again; return whether it was pinned.

    Raises:
        StorageError: The disk refused.
    """
    marker = checkpoints / FOLDER / checkpoint_name(update)
    try:
        if not marker.exists():
            return False
        durable.remove(marker)
        durable.sync_folder(marker.parent)
    except OSError as error:
        raise durable.storage_error(error, marker) from error
    return True


def is_pinned(step: Path) -> bool:
    """Whether a step folder is pinned."""
    return (step.parent / FOLDER / step.name).exists()


def pinned(checkpoints: Path) -> frozenset[int]:
    """Return the updates of the pinned steps."""
    folder = checkpoints / FOLDER
    if not folder.is_dir():
        return frozenset()
    return frozenset(update for path in folder.iterdir() if (update := update_of(path)) >= 0)


def _no_step(step: Path) -> CheckpointError:
    return CheckpointError(f"{step.parent} holds no {step.name}, so it cannot be pinned")


_LOG = logging.getLogger("noether.checkpoints")


@dataclass(frozen=True, slots=True)
class Retention:
    """How many steps stay beside those that a name or a pin protects.

    Attributes:
        keep_last: The newest so many stay, at least one, and so do the newest so many that a run can go on from, which
            partial saves must not push out.
        keep_every: Steps whose update is a multiple of it stay; None for no such steps.
    """

    keep_last: int = 3
    keep_every: int | None = None

    def prunable(self, checkpoints: Path, protected: Collection[int] = ()) -> list[Path]:
        """Return the steps that nothing keeps, oldest first: neither their update, nor a name, nor a pin.

        The newest step that a run can go on from and whose weights are all finite stays as well: what came after it
        may be of no use.

        Args:
            checkpoints: The folder of the step folders.
            protected: Updates whose steps stay, because a name stands for them.
        """
        steps = checkpoint_folders(checkpoints)
        newest, older = steps[-self._count :], steps[: -self._count]
        by_pin = pinned(checkpoints)
        rest = [step for step in older if not self._is_kept(update_of(step), {*protected, *by_pin})]
        if not rest:
            return []
        needed = self._needed_to_go_on(steps)
        return [step for step in rest if step not in newest and step not in needed]

    @property
    def _count(self) -> int:
        return max(self.keep_last, 1)

    def _is_kept(self, update: int, protected: Collection[int]) -> bool:
        return update in protected or (self.keep_every is not None and update % self.keep_every == 0)

    def _needed_to_go_on(self, steps: list[Path]) -> set[Path]:
        """Return the newest steps to go on from, one of them finite; older manifests than needed are not read."""
        resumable: set[Path] = set()
        has_finite = False
        for step in reversed(steps):
            if len(resumable) >= self._count and has_finite:
                break
            try:
                manifest = read_manifest(step)
            except NewerFormatError:  # what it is worth, only the version that wrote it can tell
                resumable.add(step)
                continue
            except CheckpointError:
                continue
            if manifest.resumable and (len(resumable) < self._count or manifest.finite):
                resumable.add(step)
                has_finite |= manifest.finite
        return resumable


def prune_checkpoints(checkpoints: Path, retention: Retention, *, protected: Collection[int] = ()) -> None:
    """Remove the steps that nothing keeps. One that cannot be removed is told, and is tried again after the next save.

    Args:
        checkpoints: The folder of the step folders.
        retention: How many stay.
        protected: Updates whose steps stay, because a name stands for them.
    """
    for step in retention.prunable(checkpoints, protected):
        try:
            remove_checkpoint(step)
        except OSError as error:
            _LOG.warning("cannot remove the old checkpoint %s: %s", step, error.strerror or error)


def remove_checkpoint(step: Path) -> bool:
    """Remove a step, unless somebody pins it at this very moment; return whether it is gone.

    Raises:
        OSError: The disk refused; the step is whole, or is none any more.
    """
    trash = step.with_name(f"{TRASH}{step.name}-{secrets.token_hex(4)}")
    durable.rename(step, trash)
    if is_pinned(step):
        durable.rename(trash, step)
        return False
    durable.remove_tree(trash)
    return True
