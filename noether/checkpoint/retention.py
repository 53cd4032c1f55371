"""Retention: the checkpoints that stay on the disk, and pins that protect one."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from noether.checkpoint import durable
from noether.checkpoint.manifest import NewerFormatError
from noether.checkpoint.paths import TRASH, checkpoint_folders, checkpoint_name, read_manifest, update_of
from noether.checkpoint.untrusted import NotPlainError, is_folder, names_inside, require_folders
from noether.errors import CheckpointError

_LOG = logging.getLogger("noether.checkpoints")
FOLDER = "pins"


@dataclass(frozen=True, slots=True)
class Retention:
    """Keep the newest N checkpoints and the newest N resumable ones, beside those that a name or a pin protects.

    Attributes:
        keep_last: N, at least 1. Resumable checkpoints are counted apart, so that partial saves do not push them out.
        keep_every: Keep checkpoints whose update is a multiple of it as well; None for no such checkpoints.
    """

    keep_last: int = 3
    keep_every: int | None = None

    def is_kept(self, checkpoint: Path, protected: Collection[int]) -> bool:
        """Return True if the update, a name or a pin of a checkpoint keeps it."""
        return self._is_kept(update_of(checkpoint), protected) or is_pinned(checkpoint)

    def prunable(self, checkpoints: Path, protected: Collection[int] = ()) -> list[Path]:
        """Return the checkpoints that neither their update, a name nor a pin keeps, oldest first.

        The newest resumable checkpoint with finite weights stays as well, because later ones may be useless.

        Args:
            checkpoints: The folder of the checkpoints.
            protected: Updates of the checkpoints that have names.
        """
        folders = checkpoint_folders(checkpoints)
        newest, older = folders[-self._count :], folders[: -self._count]
        by_pin = pinned(checkpoints)
        rest = [checkpoint for checkpoint in older if not self._is_kept(update_of(checkpoint), {*protected, *by_pin})]
        if not rest:
            return []
        needed = self._needed_to_go_on(folders)
        return [checkpoint for checkpoint in rest if checkpoint not in newest and checkpoint not in needed]

    @property
    def _count(self) -> int:
        return max(self.keep_last, 1)

    def _is_kept(self, update: int, protected: Collection[int]) -> bool:
        return update in protected or (self.keep_every is not None and update % self.keep_every == 0)

    def _needed_to_go_on(self, folders: list[Path]) -> set[Path]:
        """Return the newest resumable checkpoints, one of them finite; reads only the manifests that it needs."""
        resumable: set[Path] = set()
        has_finite = False
        for checkpoint in reversed(folders):
            if len(resumable) >= self._count and has_finite:
                break
            try:
                manifest = read_manifest(checkpoint)
            except NewerFormatError:  # only the version that wrote it can judge it
                resumable.add(checkpoint)
                continue
            except CheckpointError:
                continue
            if manifest.resumable and (len(resumable) < self._count or manifest.finite):
                resumable.add(checkpoint)
                has_finite |= manifest.finite
        return resumable


def prune_checkpoints(checkpoints: Path, retention: Retention, *, protected: Collection[int] = ()) -> None:
    """Remove the checkpoints that nothing keeps; warn about those that cannot be removed.

    Args:
        checkpoints: The folder of the checkpoints.
        retention: The checkpoints to keep.
        protected: Updates of the checkpoints that have names.
    """
    for checkpoint in retention.prunable(checkpoints, protected):
        try:
            remove_checkpoint(checkpoint)
        except OSError as error:
            _LOG.warning("cannot remove the old checkpoint %s: %s", checkpoint, error.strerror or error)


def remove_checkpoint(checkpoint: Path) -> bool:
    """Remove a checkpoint unless it is being pinned; return True if it was removed.

    Raises:
        OSError: if the disk refuses; the checkpoint is complete, or has no name any more.
    """
    trash = checkpoint.with_name(f"{TRASH}{checkpoint.name}-{secrets.token_hex(4)}")
    durable.rename(checkpoint, trash)
    if is_pinned(checkpoint):
        durable.rename(trash, checkpoint)
        return False
    durable.remove_tree(trash)
    return True


def pin(checkpoints: Path, update: int) -> None:
    """Protect the checkpoint after `update` updates from retention; pinning it twice changes nothing.

    The checkpoint is looked for again after its pin is made, and pruning looks for the pin after it has renamed the
    checkpoint: so a checkpoint for which this returns stays, whichever of the two comes first.

    Args:
        checkpoints: The folder of the checkpoints.
        update: The checkpoint's update.

    Raises:
        CheckpointError: if there is no such checkpoint.
        StorageError: if the disk refuses.
    """
    folder, checkpoint = checkpoints / FOLDER, checkpoints / checkpoint_name(update)
    if checkpoint not in checkpoint_folders(checkpoints):
        raise _not_there(checkpoint)
    marker = folder / checkpoint.name
    try:
        durable.make_folders(folder, inside=checkpoints)
        if not os.path.lexists(marker):
            durable.write_new_file(marker, ())
        durable.sync_folder(folder)
    except OSError as error:
        raise durable.storage_error(error, marker) from error
    if not is_folder(checkpoint):
        unpin(checkpoints, update)
        raise _not_there(checkpoint)


def unpin(checkpoints: Path, update: int) -> bool:
    """Remove the pin of the checkpoint after `update` updates; return True if there was one.

    Raises:
        StorageError: if the disk refuses.
    """
    marker = checkpoints / FOLDER / checkpoint_name(update)
    try:
        require_folders(checkpoints, marker.parent)
        if not os.path.lexists(marker):
            return False
        durable.remove(marker)
        durable.sync_folder(marker.parent)
    except OSError as error:
        raise durable.storage_error(error, marker) from error
    return True


def is_pinned(checkpoint: Path) -> bool:
    """Return True if a checkpoint is pinned."""
    return update_of(checkpoint) in pinned(checkpoint.parent)


def pinned(checkpoints: Path) -> frozenset[int]:
    """Return the updates of the pinned checkpoints.

    Raises:
        CheckpointError: if the folder of the pins is a link, or not a folder.
    """
    try:
        names = names_inside(checkpoints, FOLDER)
    except NotPlainError as error:
        raise CheckpointError(f"wrong folder of pins in {checkpoints}: {error}", hint="remove it") from error
    return frozenset(update for name in names if (update := update_of(Path(name))) >= 0)


def _not_there(checkpoint: Path) -> CheckpointError:
    return CheckpointError(f"{checkpoint.name} cannot be pinned: {checkpoint.parent} does not hold it")
