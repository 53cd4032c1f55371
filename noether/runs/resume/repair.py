"""Repair of a run folder: what is damaged in it is set aside, and what a sound checkpoint holds is restored."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from noether.checkpoint.durable import replace_file
from noether.checkpoint.paths import ABANDONED, PathProvider, checkpoint_folders, read_manifest, set_aside
from noether.checkpoint.retention import FOLDER as PINS
from noether.checkpoint.untrusted import is_file_inside, is_folder, read_untrusted
from noether.errors import CheckpointError, SpecError, StorageError
from noether.metrics.results import RESULTS, RESULTS_INDEX
from noether.metrics.values import NONSCALARS
from noether.runs.folder.lock import RunLock
from noether.runs.folder.run_folder import RUN, read_run, recent_attempts, record_path
from noether.runs.saved_spec import SPEC_SHA256, copy_in_checkpoint, read_spec_file


@dataclass(frozen=True, slots=True)
class Damage:
    """A damaged file of a run folder.

    Attributes:
        path: The file; it may be missing.
        reason: The damage.
        restored: Its content, if a checkpoint holds it; None to do without it.
        origin: Name of that checkpoint.
    """

    path: Path
    reason: str
    restored: bytes | None = None
    origin: str = ""

    def __str__(self) -> str:
        """Return the damage and the remedy as one line."""
        remedy = f"; restored from {self.origin}" if self.origin else ""
        return f"{self.path.name} {self.reason}{remedy}"


def repair_run(paths: PathProvider) -> list[str]:
    """Repair a run that no process works on; see `repair`.

    Raises:
        UsageError: if a process works on it.
    """
    with RunLock(paths.run_path):
        return repair(paths)


def repair(paths: PathProvider) -> list[str]:
    """Set damaged files of a locked run aside and restore what can be restored; return a line for each.

    Lines of the metrics files are repaired when the run continues, because their length is that of a checkpoint.

    Raises:
        StorageError: if the disk refuses.
    """
    lines = []
    for damage in damages(paths):
        aside = set_aside(paths.run_path, damage.path) if os.path.lexists(damage.path) else None
        if damage.restored is not None:
            replace_file(damage.path, damage.restored, inside=paths.run_path)
        lines.append(f"{damage}{f'; the damaged one is {aside}' if aside else ''}")
    return lines


def damages(paths: PathProvider) -> list[Damage]:
    """Return the damaged files of a run folder, and change nothing."""
    found = [*_of_other_types(paths)]
    if checkpoint_folders(paths.checkpoint_path):
        found += [*_of_record(paths), *_of_attempts(paths), *_of_spec(paths)]
    return found


def _of_other_types(paths: PathProvider) -> Iterator[Damage]:
    nonscalars, index = (paths.metrics_path.with_name(name) for name in (NONSCALARS, RESULTS_INDEX))
    appended = (paths.log_path, paths.metrics_path, nonscalars, index)
    for path in (*appended, paths.spec_path):
        if os.path.lexists(path) and not is_file_inside(paths.run_path, path):
            yield Damage(path, "is not a regular file")
        elif path in appended and os.path.lexists(path) and (names := path.lstat().st_nlink) > 1:  # a copy by `cp -l`
            reason = f"has {names} names (hard links), and is replaced by a copy"
            yield Damage(path, reason, _content(paths, path))
    folders = (paths.attempts_path, paths.checkpoint_path / PINS, paths.spool_path)
    for path in (*folders, paths.run_path / ABANDONED, paths.run_path / RESULTS):
        if os.path.lexists(path) and not is_folder(path):
            yield Damage(path, "is not a folder")


def _content(paths: PathProvider, path: Path) -> bytes:
    try:
        return read_untrusted(paths.run_path, path)
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot read {path}: {error}") from error


def _of_record(paths: PathProvider) -> Iterator[Damage]:
    """Yield `run.json` if it cannot be read; the next attempt adds the facts of the run."""
    if not read_run(paths.run_path):
        path, mark = paths.run_path / RUN, {"format": 1, "run_id": paths.run_id, "created": time.time()}
        reason = _reason(path, "cannot be read, or is not what was written")
        yield Damage(path, reason, (json.dumps(mark, indent=1) + "\n").encode())


def _of_attempts(paths: PathProvider) -> Iterator[Damage]:
    """Yield the records of attempts that cannot be read; the number of an attempt is not used again."""
    for attempt in recent_attempts(paths.attempts_path) if is_folder(paths.attempts_path) else ():
        if not attempt.record:
            path, mark = record_path(paths.attempts_path, attempt.number), b'{"status": "RUNNING"}\n'
            yield Damage(path, "(the record of an attempt) cannot be read", mark)


def _reason(path: Path, damage: str = "cannot be read") -> str:
    return damage if os.path.lexists(path) else "is missing"


def _of_spec(paths: PathProvider) -> Iterator[Damage]:
    """Yield the resolved spec if it cannot be read, or is not what an attempt or a checkpoint has recorded.

    A changed byte may leave a valid spec of another training.
    """
    path, copy = paths.resolved_spec_path, copy_in_checkpoint(paths)
    try:
        if read_spec_file(paths).sha256 in _recorded_specs(paths) or copy is None:
            return
        reason = "is not what was written; use -s to change settings"
    except SpecError:
        reason = _reason(path)
    if copy is not None:
        yield Damage(path, reason, _content(paths, copy), copy.parent.name)
    elif os.path.lexists(path):
        yield Damage(path, reason)


def _recorded_specs(paths: PathProvider) -> set[str]:
    """Return hashes of the specs of all attempts and checkpoints."""
    attempts = recent_attempts(paths.attempts_path) if is_folder(paths.attempts_path) else ()
    hashes = {str(attempt.record.get(SPEC_SHA256)) for attempt in attempts}
    for folder in checkpoint_folders(paths.checkpoint_path):
        with suppress(CheckpointError):  # the resume names it
            hashes.add(read_manifest(folder).spec_sha256)
    return hashes
