"""Which steps of a run stay on the disk."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from noether.core.writers.durable import storage_error
from noether.core.writers.manifest import NAME, Manifest
from noether.core.writers.step_folder import list_steps, move_aside, update_of


def prune_steps(checkpoints: Path, *, keep_last: int, protected: Collection[int] = ()) -> None:
    """Remove steps that nothing keeps: neither their age, nor a name.

    The newest `keep_last` steps stay, at least one; and so do the newest `keep_last` that a run can go on from, which
    partial saves must not push out.

    Args:
        checkpoints: The folder of the step folders.
        keep_last: How many stay.
        protected: Updates whose steps stay, because a name stands for them.

    Raises:
        StorageError: The disk refused; no step is half removed.
    """
    steps = list_steps(checkpoints)
    kept = set(steps[-max(keep_last, 1) :])
    rest = [step for step in steps if step not in kept and update_of(step) not in protected]
    if not rest:
        return
    resumable = [step for step in steps if is_resumable(step)]
    kept.update(resumable[-max(keep_last, 1) :])
    for step in rest:
        if step not in kept:
            try:
                move_aside(step)
            except OSError as error:
                raise storage_error(error, step) from error


def is_resumable(step: Path) -> bool:
    """Whether the manifest of a step says that a run can go on from it; its files are not looked at."""
    try:
        return Manifest.decode((step / NAME).read_bytes()).resumable
    except (OSError, ValueError, KeyError, TypeError):
        return False
