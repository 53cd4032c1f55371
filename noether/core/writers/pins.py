"""Pinned steps: retention never removes them. A pin is an empty file beside the steps, so a step is never written to.

One file a pin means that pinning while the run trains, or from two terminals at once, loses no pin and reads no half.
"""

from __future__ import annotations

from pathlib import Path

from noether.core.writers import durable
from noether.core.writers.step_folder import step_name, update_of
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
    folder, step = checkpoints / FOLDER, checkpoints / step_name(update)
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
    marker = checkpoints / FOLDER / step_name(update)
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
