"""Changes of a spec between two attempts: those that a resume accepts and those that it refuses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from noether.checkpoint.saved_step import SavedStep
from noether.errors import UsageError
from noether.runs.folder.run_folder import RunFolder, environment_changes
from noether.runs.saved_spec import has_saved_spec, read_saved_spec
from noether.spec.diff import ABSENT, Difference, differences
from noether.spec.model import RunSpec
from noether.spec.resolve import resolved_tables

FREE = (
    "name",
    "output",
    "expect*",
    "checkpoints*",
    "plugins*",
    "loader*",
    "trackers*",
    "initializer*",  # a run that goes on begins with its own state
    "datasets.*",  # what is not training data only changes what is logged; see `_FROZEN`
    "trainer.callbacks*",
    "trainer.add_default_callbacks",
    "trainer.add_trainer_callbacks",
    "trainer.log_every_n_*",
    "trainer.track_every_n_*",
    "trainer.monitor_*",
    "trainer.track_outputs",
    "trainer.save_on_sigint",
    "trainer.stop_signals",
    "trainer.skip_nan_loss*",
    "trainer.dataloader_prefetch_factor",
    "trainer.initializer*",
    "trainer.max_epochs",
    "trainer.max_updates",
    "trainer.max_samples",
)
"""Keys that may change: what they are for is to observe, to store, or to say when to end."""

EXACT_ONLY_IF_EQUAL = ("device", "threads", "deterministic", "matmul_precision")
"""Keys that may change too, but then the last bits do: a resume with them is told not to be exact."""

_FROZEN = ("datasets.train*",)
_LIMITS = ("trainer.max_epochs", "trainer.max_updates", "trainer.max_samples")


def refused_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Return the differences between two resolved specs that change what training computes.

    A longer run is another one for a schedule that stretches over it, so the limit may change only where there is none.
    """
    scheduled = _has_schedule(before.get("model")) or _has_schedule(now.get("model"))
    return [
        difference
        for difference in differences(dict(before), dict(now))
        if not is_free(difference.key) or (scheduled and difference.key in _LIMITS)
    ]


def is_free(key: str) -> bool:
    """Whether a key may have another value when a run is continued."""
    if any(fnmatchcase(key, pattern) for pattern in _FROZEN):
        return False
    return any(fnmatchcase(key, pattern) for pattern in (*FREE, *EXACT_ONLY_IF_EQUAL))


def inexact_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the differences that leave the mathematics alone and change the last bits."""
    return shown(d for d in differences(dict(before), dict(now)) if d.key in EXACT_ONLY_IF_EQUAL)


def require_same_mathematics(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to continue a run with a spec that would make it another one.

    Raises:
        UsageError: It would; the message shows every such difference.
    """
    changes = refused_changes(before, now)
    if changes:
        listed = "\n".join(f"  {line}" for line in shown(changes))
        raise UsageError(
            f"the spec has changed in what training computes:\n{listed}",
            hint="put it back, begin a new run, or say --allow-spec-change to go on with the new values",
        )


def shown(changes: Iterable[Difference]) -> list[str]:
    """Return differences as lines: `model.optimizer.lr: 0.001 → 0.01`."""
    return [f"{change.key}: {_value(change.left)} → {_value(change.right)}" for change in changes]


def _value(value: Any) -> str:
    return "absent" if value is ABSENT else repr(value)


def _has_schedule(table: Any) -> bool:
    """Whether any optimizer below a table has a schedule."""
    if not isinstance(table, Mapping):
        return False
    return any(
        (key in ("schedule", "weight_decay_schedule") and value is not None) or _has_schedule(value)
        for key, value in table.items()
    )


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
        self.saved = read_saved_spec(folder.paths) if has_saved_spec(folder.paths) else None
        self.before = self.saved.tables if self.saved is not None else {}
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

    def is_same_training(self, step: SavedStep) -> bool:
        """Whether the spec is the one that a step was saved with, as far as the saved state depends on it.

        An attempt with another spec may have died before it saved anything: then the spec in the folder is not the one
        that the step was saved with.
        """
        if self.saved is None or self.saved.sha256 != step.manifest.spec_sha256:
            return False
        return not any(key.startswith(_WHAT_STATE_DEPENDS_ON) for key in self._changed)
