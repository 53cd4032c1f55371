"""Repair of a run folder: what is damaged in it is set aside, and what a sound checkpoint holds is restored."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from noether.checkpoint.durable import replace_file
from noether.checkpoint.manifest import SPEC
from noether.checkpoint.paths import ABANDONED, PathProvider, checkpoint_folders, read_file, read_manifest, set_aside
from noether.checkpoint.retention import FOLDER as PINS
from noether.checkpoint.untrusted import is_file_inside, is_folder, read_record, read_untrusted
from noether.errors import CheckpointError, SpecError, StorageError
from noether.runs.folder.lock import RunLock
from noether.runs.folder.run_folder import RUN, recent_attempts
from noether.runs.saved_spec import SPEC_SHA256, read_saved_spec


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
    with RunLock(paths.run_path, mends=True):
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
        found += [*_of_record(paths), *_of_spec(paths)]
    return found


def _of_other_types(paths: PathProvider) -> Iterator[Damage]:
    nonscalars = paths.metrics_path.with_name("nonscalars.jsonl")
    appended = (paths.log_path, paths.metrics_path, nonscalars)
    for path in (*appended, paths.spec_path):
        if os.path.lexists(path) and not is_file_inside(paths.run_path, path):
            yield Damage(path, "is not a regular file")
        elif path in appended and os.path.lexists(path) and (names := path.lstat().st_nlink) > 1:  # a copy by `cp -l`
            reason = f"has {names} names (hard links), and is replaced by a copy"
            yield Damage(path, reason, _content(paths, path))
    for path in (paths.attempts_path, paths.checkpoint_path / PINS, paths.spool_path, paths.run_path / ABANDONED):
        if os.path.lexists(path) and not is_folder(path):
            yield Damage(path, "is not a folder")


def _content(paths: PathProvider, path: Path) -> bytes:
    try:
        return read_untrusted(paths.run_path, path)
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot read {path}: {error}") from error


def _of_record(paths: PathProvider) -> Iterator[Damage]:
    """Yield `run.json` if it cannot be read; the next attempt adds the facts of the run."""
    if not read_record(paths.run_path, RUN):
        path, mark = paths.run_path / RUN, {"format": 1, "run_id": paths.run_id, "created": time.time()}
        yield Damage(path, _reason(path), (json.dumps(mark, indent=1) + "\n").encode())


def _reason(path: Path) -> str:
    return "cannot be read" if os.path.lexists(path) else "is missing"


def _of_spec(paths: PathProvider) -> Iterator[Damage]:
    """Yield the resolved spec if it cannot be read, or is not what an attempt or a checkpoint has recorded.

    A changed byte may leave a valid spec of another training.
    """
    hashes, copy, origin = _recorded_specs(paths)
    try:
        if read_saved_spec(paths).sha256 in hashes or copy is None:
            return
        reason = "is not what was written; use -s to change settings"
    except SpecError:
        reason = _reason(paths.resolved_spec_path)
    if copy is not None or reason == "cannot be read":
        yield Damage(paths.resolved_spec_path, reason, copy, origin)


def _recorded_specs(paths: PathProvider) -> tuple[set[str], bytes | None, str]:
    """Return hashes of the specs of all attempts, and the copy in the newest checkpoint that has one, with its name."""
    attempts = recent_attempts(paths.attempts_path) if is_folder(paths.attempts_path) else ()
    hashes = {str(attempt.record.get(SPEC_SHA256)) for attempt in attempts}
    copy, origin = None, ""
    for folder in reversed(checkpoint_folders(paths.checkpoint_path)):
        try:
            manifest = read_manifest(folder)
            hashes.add(manifest.spec_sha256)
            if copy is None and SPEC in manifest.files:
                copy, origin = read_file(folder, manifest, SPEC), folder.name
        except CheckpointError:  # the resume names it
            continue
    return hashes, copy, origin
