"""`checkpoint prune`: retention by hand, for a run that has ended."""

from __future__ import annotations

import tomllib
from contextlib import nullcontext
from typing import Any

from noether.checkpoint.durable import storage_error
from noether.checkpoint.paths import PathProvider
from noether.checkpoint.retention import Retention, remove_checkpoint
from noether.runs.checkpoints import LATEST, Listed, list_checkpoints
from noether.runs.lock import RunLock


def prune_run(paths: PathProvider, *, keep_last: int | None = None, dry_run: bool = False) -> list[Listed]:
    """Remove the checkpoints of a run that nothing keeps; return them.

    Args:
        paths: Those of the run.
        keep_last: How many of the newest stay; unset, as many as the run's spec says.
        dry_run: Remove nothing.

    Raises:
        UsageError: A process works on the run.
        StorageError: The disk refused; no checkpoint is half removed.
    """
    table = _checkpoints_table(paths)
    keep_last = keep_last or table.get("keep_last") or Retention().keep_last
    retention = Retention(keep_last, table.get("keep_every"))
    with nullcontext() if dry_run else RunLock(paths.run_path):
        steps = list_checkpoints(paths.checkpoint_path)
        protected = {step.update for step in steps if set(step.names) - {LATEST}}
        folders = retention.prunable(paths.checkpoint_path, protected)
        if not dry_run:
            for folder in folders:
                try:
                    remove_checkpoint(folder)
                except OSError as error:
                    raise storage_error(error, folder) from error
    return [step for step in steps if step.folder in folders]


def _checkpoints_table(paths: PathProvider) -> dict[str, Any]:
    """Return `[checkpoints]` of the run's spec, which it has kept with all defaults."""
    try:
        table = tomllib.loads(paths.resolved_spec_path.read_text("utf-8")).get("checkpoints", {})
    except (OSError, ValueError):
        return {}  # nobody can read it any more; the defaults are safe
    return table if isinstance(table, dict) else {}
