"""The folder that one run keeps its steps in: made once, before training, and never again."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

from noether.core.writers import durable
from noether.core.writers.content import Content
from noether.core.writers.errors import FolderGoneError
from noether.core.writers.manifest import Manifest
from noether.core.writers.retention import Retention, prune_steps
from noether.core.writers.step_commit import commit_step
from noether.core.writers.step_folder import list_steps, sweep_leftovers

_LOG = logging.getLogger("noether.checkpoints")


class CheckpointFolder:
    """Writes and prunes the steps of one run.

    Args:
        path: The folder of the step folders.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_prepared = False
        self._has_warned = False

    @property
    def steps(self) -> list[Path]:
        """The committed steps, oldest first."""
        return list_steps(self.path)

    def prepare(self) -> None:
        """Make the folder where it is missing, remove leftovers, and see whether it can be written to.

        Raises:
            StorageError: It cannot.
        """
        try:
            durable.make_folders(self.path)
            sweep_leftovers(self.path)
            durable.sync_folder(self.path)  # a process that was killed may have renamed a step and not synced this
        except OSError as error:
            raise durable.storage_error(error, self.path) from error
        durable.probe(self.path)
        self._is_prepared = True

    def commit(self, files: Mapping[str, Content], manifest: Manifest) -> Path:
        """Store one step; see `commit_step`.

        Raises:
            StorageError: The disk refused.
            FolderGoneError: The folder was removed while the run trained. It is not made again: who removed it wanted
                it gone, or wants to know.
        """
        if not self._is_prepared:
            self.prepare()
        elif not self.path.is_dir():
            raise FolderGoneError(self.path)
        return commit_step(self.path, files, manifest)

    def prune(self, retention: Retention, protected: Collection[int]) -> None:
        """Remove the steps that nothing keeps; what the disk refuses is told and does not end the run."""
        try:
            prune_steps(self.path, retention, protected=protected)
        except OSError as error:
            _LOG.warning("cannot look for old checkpoints in %s: %s", self.path, error.strerror or error)

    def warn_if_short_of_room(self, size: int, retention: Retention) -> None:
        """Warn, once, where the disk has no room for all steps that are going to be there at the same time.

        Those are the ones that stay and the one that is being written; steps that a name or a pin protects come on top.

        Args:
            size: Bytes of one step.
            retention: How many stay.
        """
        free = durable.free_bytes(self.path)
        wanted = max(retention.keep_last, 1) + 1
        needed = size * max(wanted - len(self.steps), 1)
        if self._has_warned or free is None or free >= needed:
            return
        self._has_warned = True
        _LOG.warning(
            "a checkpoint of this run has %s; %d of them at once need %s more, but only %s are free in %s",
            durable.size_text(size),
            wanted,
            durable.size_text(needed),
            durable.size_text(free),
            self.path,
        )
