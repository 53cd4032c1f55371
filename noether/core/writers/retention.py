"""Which steps of a run stay on the disk."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from noether.core.writers import durable
from noether.core.writers.errors import NewerFormatError
from noether.core.writers.pins import is_pinned, pinned
from noether.core.writers.step_folder import TRASH, list_steps, read_manifest, update_of
from noether.errors import CheckpointError

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
        steps = list_steps(checkpoints)
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


def prune_steps(checkpoints: Path, retention: Retention, *, protected: Collection[int] = ()) -> None:
    """Remove the steps that nothing keeps. One that cannot be removed is told, and is tried again after the next save.

    Args:
        checkpoints: The folder of the step folders.
        retention: How many stay.
        protected: Updates whose steps stay, because a name stands for them.
    """
    for step in retention.prunable(checkpoints, protected):
        try:
            remove_step(step)
        except OSError as error:
            _LOG.warning("cannot remove the old checkpoint %s: %s", step, error.strerror or error)


def remove_step(step: Path) -> bool:
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
