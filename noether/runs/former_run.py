"""A run as its last attempt has left it, compared with the spec that it is to go on with."""

from __future__ import annotations

import tomllib

from noether.checkpoint.paths import PathProvider
from noether.checkpoint.saved import SavedCheckpoint
from noether.runs.environment import environment_changes
from noether.runs.folder import RunFolder
from noether.runs.spec_changes import inexact_changes, require_same_mathematics
from noether.spec.difference import differences
from noether.spec.model import RunSpec
from noether.spec.resolve import resolved_tables

_WHAT_STATE_DEPENDS_ON = ("trainer", "plugins", "model", "transforms", "datasets.train", "seed")
_NO_REASON_TO_GO_ON = ("name", "output", "expect", "checkpoints", "trackers", "loader", "threads", "device")


class FormerRun:
    """What the folder of a run tells, as long as no new attempt has written to it.

    Args:
        folder: Of the run.
        spec: What it is to go on with, with the sizes that the data has decided.

    Attributes:
        before: The resolved spec of the last attempt; empty where its process died before it had written one.
        now: The same of `spec`.
    """

    def __init__(self, folder: RunFolder, spec: RunSpec) -> None:
        self.folder = folder
        self.before = _written_spec(folder.paths)
        self.now = resolved_tables(spec)
        self._changed = [change.key for change in differences(self.before, self.now)]

    def require_same_mathematics(self) -> None:
        """Refuse a spec that would make it another run.

        Raises:
            UsageError: It would; the message shows every such difference.
        """
        if self.before:
            require_same_mathematics(self.before, self.now)

    def inexact_changes(self) -> list[str]:
        """Return what has changed of the machine and the spec that leaves all alone but the last bits."""
        changes = environment_changes(self.folder.recorded_environment())
        return changes + (inexact_changes(self.before, self.now) if self.before else [])

    @property
    def asks_for_more(self) -> bool:
        """Whether the spec has changed in what is a reason to train on after the run has ended."""
        return not all(key.startswith(_NO_REASON_TO_GO_ON) for key in self._changed)

    def is_same_training(self, step: SavedCheckpoint) -> bool:
        """Whether the spec is the one that a step was saved with, as far as the saved state depends on it.

        An attempt with another spec may have died before it saved anything: then the spec in the folder is not the one
        that the step was saved with.
        """
        if self.folder.spec_sha256 != step.manifest.spec_sha256:
            return False
        return not any(key.startswith(_WHAT_STATE_DEPENDS_ON) for key in self._changed)


def _written_spec(paths: PathProvider) -> dict[str, object]:
    try:
        return tomllib.loads(paths.resolved_spec_path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
