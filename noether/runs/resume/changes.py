"""Changes of a spec between two attempts: those that a resume accepts and those that it refuses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from noether.checkpoint.saved import SavedCheckpoint
from noether.errors import UsageError
from noether.runs.folder.run_folder import RunFolder, environment_changes
from noether.runs.saved_spec import has_saved_spec, read_saved_spec
from noether.spec.diff import ABSENT, Difference, differences
from noether.spec.model import RunSpec, resolved_tables

FREE = (
    "name",
    "output",
    "expect*",
    "checkpoints*",
    "plugins*",
    "loader*",
    "trackers*",
    "initializer*",  # a run that continues has its own state
    "datasets.*",  # data other than `train` only alters what is logged; see `_FROZEN`
    "trainer.callbacks*",
    "trainer.add_default_callbacks",
    "trainer.add_trainer_callbacks",
    "trainer.log_every_n_*",
    "trainer.track_every_n_*",
    "trainer.monitor_*",
    "trainer.track_outputs",
    "trainer.hook_timeout_s",
    "trainer.save_on_sigint",
    "trainer.stop_signals",
    "trainer.skip_nan_loss*",
    "trainer.dataloader_prefetch_factor",
    "trainer.initializer*",
    "trainer.max_epochs",
    "trainer.max_updates",
    "trainer.max_samples",
)
"""Keys that may change: they observe, store, or limit."""

EXACT_ONLY_IF_EQUAL = ("device", "threads", "deterministic", "matmul_precision")
"""Keys that may change and then alter the last bits: the run warns that the resume is not exact."""

_FROZEN = ("datasets.train*",)
_LIMITS = ("trainer.max_epochs", "trainer.max_updates", "trainer.max_samples")


def refused_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Return the differences between two resolved specs that alter training.

    A schedule stretches over the whole run, so the limit may change only if there is none.
    """
    scheduled = _has_schedule(before.get("model")) or _has_schedule(now.get("model"))
    return [
        difference
        for difference in differences(dict(before), dict(now))
        if not is_free(difference.key) or (scheduled and difference.key in _LIMITS)
    ]


def mathematics(tables: Mapping[str, Any]) -> str:
    """Return a digest of the settings of a resolved spec that decide about the values that training computes."""
    scheduled = _has_schedule(tables.get("model"))
    decisive = [
        (key, repr(value)) for key, value in _leaves(tables) if not is_free(key) or (scheduled and key in _LIMITS)
    ]
    return hashlib.sha256(repr(sorted(decisive)).encode()).hexdigest()[:16]


def _leaves(tables: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tables.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def is_free(key: str) -> bool:
    """Return True if a key may have another value when a run is continued."""
    if any(fnmatchcase(key, pattern) for pattern in _FROZEN):
        return False
    return any(fnmatchcase(key, pattern) for pattern in (*FREE, *EXACT_ONLY_IF_EQUAL))


def inexact_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the differences that keep the mathematics and alter the last bits."""
    return shown(d for d in differences(dict(before), dict(now)) if d.key in EXACT_ONLY_IF_EQUAL)


def require_same_mathematics(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to continue a run with a spec that alters training.

    Raises:
        UsageError: if it does; the message shows every such difference.
    """
    changes = refused_changes(before, now)
    if changes:
        listed = "\n".join(f"  {line}" for line in shown(changes))
        raise UsageError(
            f"resume refused: these changes alter training:\n{listed}",
            hint="undo them, begin a new run, or add --allow-spec-change to continue with the new values",
        )


def shown(changes: Iterable[Difference]) -> list[str]:
    """Return differences as lines: `model.optimizer.lr: 0.001 → 0.01`."""
    return [f"{change.key}: {_value(change.left)} → {_value(change.right)}" for change in changes]


def _value(value: Any) -> str:
    return "absent" if value is ABSENT else repr(value)


def _has_schedule(table: Any) -> bool:
    """Return True if any optimizer below a table has a schedule."""
    if not isinstance(table, Mapping):
        return False
    return any(
        (key in ("schedule", "weight_decay_schedule") and value is not None) or _has_schedule(value)
        for key, value in table.items()
    )


_DECIDES_STATE = ("trainer", "plugins", "model", "transforms", "datasets.train", "seed")
_NO_REASON_TO_CONTINUE = ("name", "output", "expect", "checkpoints", "trackers", "loader", "threads", "device")


class FormerRun:
    """A run as its last attempt left it, compared with the spec of the next attempt.

    Args:
        folder: The run folder, before the next attempt writes to it.
        spec: Spec of the next attempt, with the sizes that the data decide.

    Attributes:
        saved: The resolved spec of the last attempt; None if its process died before it wrote one.
        before: Tables of that spec; empty without one.
        now: Tables of `spec`.
    """

    def __init__(self, folder: RunFolder, spec: RunSpec) -> None:
        self.folder = folder
        self.saved = read_saved_spec(folder.paths) if has_saved_spec(folder.paths) else None
        self.before = self.saved.tables if self.saved is not None else {}
        self.now = resolved_tables(spec)
        self._changed = [change.key for change in differences(self.before, self.now)]

    def require_same_mathematics(self) -> None:
        """Refuse a spec that alters training.

        Raises:
            UsageError: if it does; the message shows every such difference.
        """
        if self.before:
            require_same_mathematics(self.before, self.now)

    def inexact_changes(self) -> list[str]:
        """Return the changes of machine and spec that alter the last bits only."""
        changes = environment_changes(self.folder.recorded_environment())
        return changes + (inexact_changes(self.before, self.now) if self.before else [])

    @property
    def asks_for_more(self) -> bool:
        """True if changes of the spec are a reason to train on after the run has ended."""
        return not all(key.startswith(_NO_REASON_TO_CONTINUE) for key in self._changed)

    def is_same_training(self, checkpoint: SavedCheckpoint) -> bool:
        """Return True if a checkpoint was saved with the same spec, as far as the saved state depends on it.

        An attempt with another spec may have died before it saved anything: then the spec in the folder is not that of
        the checkpoint.
        """
        if self.saved is None or self.saved.sha256 != checkpoint.manifest.spec_sha256:
            return False
        return not any(key.startswith(_DECIDES_STATE) for key in self._changed)
