"""A save of which all is known but whether the disk takes it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from noether.core.writers.checkpoint_folder import CheckpointFolder
from noether.core.writers.content import Content
from noether.core.writers.finite_weights import all_finite
from noether.core.writers.manifest import WEIGHTS, Manifest
from noether.core.writers.retention import Retention
from noether.core.writers.save_request import SaveRequest
from noether.core.writers.snapshot import Snapshot
from noether.core.writers.tensor_file import TensorFile


@dataclass(frozen=True, slots=True)
class PlannedSave:
    """What is written, in this thread or in another one; both come to the same bytes.

    Attributes:
        request: What was asked for.
        files: What the step holds.
        manifest: What is said of it, but for the files' hashes and whether the weights are finite.
        weights: Those that have to be finite for the step to count as finite; of a partial save, all of the model.
    """

    request: SaveRequest
    files: dict[str, Content]
    manifest: Manifest
    weights: Collection[Tensor]

    def captured(self, snapshot: Snapshot) -> PlannedSave:
        """Return the same save of copies, which training cannot change."""
        files = snapshot.take(self.files)
        weights = files.get(WEIGHTS)
        if self.request.holds_whole_model and isinstance(weights, TensorFile):
            return replace(self, files=files, weights=list(weights.tensors.values()))
        manifest = replace(self.manifest, finite=all_finite(self.weights))  # not all of them were copied
        return replace(self, files=files, manifest=manifest, weights=())

    def write(self, folder: CheckpointFolder, retention: Retention) -> Path:
        """Store the step, then remove what retention lets go; return the step.

        Raises:
            StorageError: The disk refused; older steps stay as they are.
        """
        manifest = replace(self.manifest, finite=self.manifest.finite and all_finite(self.weights))
        step = folder.commit(self.files, manifest)
        folder.prune(retention, {named.update for named in manifest.names.values()})
        folder.warn_if_short_of_room(sum(map(len, self.files.values())), retention)
        return step
