"""Step folders: a save exists completely or not at all.

A save writes into a temporary folder beside its place, syncs every file, writes the manifest last, syncs the folder,
renames it once and syncs the parent. Whatever dies in between leaves the older steps as they were.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from noether.core.writers.durable import storage_error, sync_folder, write_new_file
from noether.core.writers.manifest import NAME, FileRecord, Manifest
from noether.errors import CheckpointError

_PREFIX = "step-"
_REPLACED = ".old-"  # a step on its way out, because the same update was saved again


def step_name(update: int) -> str:
    """Return the folder name of the step after `update` updates."""
    return f"{_PREFIX}{update:012d}"


def update_of(step: Path) -> int:
    """Return the update of a step folder from its name; -1 where the name is no step's."""
    number = step.name.removeprefix(_PREFIX)
    return int(number) if number.isdecimal() else -1


def list_steps(checkpoints: Path) -> list[Path]:
    """Return the committed step folders, oldest first."""
    if not checkpoints.is_dir():
        return []
    return sorted(path for path in checkpoints.iterdir() if path.name.startswith(_PREFIX))


def commit_step(checkpoints: Path, files: Mapping[str, bytes], manifest: Manifest) -> Path:
    """Store `files` and their manifest as one step; return its folder once that is final.

    Raises:
        StorageError: The disk refused; older steps are untouched, and of this one nothing or everything is there.
    """
    target = checkpoints / step_name(manifest.update)
    temporary = checkpoints / f".tmp-{target.name}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        checkpoints.mkdir(parents=True, exist_ok=True)
        _write_files(temporary, files, manifest)
        _put_in_place(temporary, target)
    except OSError as error:
        with contextlib.suppress(OSError):  # the refusal itself is what the user must hear of
            shutil.rmtree(temporary)
        raise storage_error(error, target) from error
    return target


def _write_files(folder: Path, files: Mapping[str, bytes], manifest: Manifest) -> None:
    folder.mkdir()
    subfolders = {folder}
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        subfolders.update(parent for parent in path.parents if parent.is_relative_to(folder))
        write_new_file(path, data)
    write_new_file(folder / NAME, manifest.encode())
    for subfolder in sorted(subfolders, reverse=True):
        sync_folder(subfolder)


def _put_in_place(finished: Path, target: Path) -> None:
    """Give a finished folder its name; an older save of the same update goes only when the new one is there."""
    replaced = target.with_name(_REPLACED + target.name)
    if target.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        target.rename(replaced)
    try:
        finished.rename(target)
    except OSError:
        if replaced.exists():
            replaced.rename(target)
        raise
    sync_folder(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def move_aside(folder: Path) -> None:
    """Take a folder out of the steps in one rename, then delete it; a leftover is swept later."""
    trash = folder.with_name(f".trash-{folder.name}-{secrets.token_hex(4)}")
    folder.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def sweep_leftovers(checkpoints: Path) -> None:
    """Remove what interrupted saves and removals have left; only the owner of the run may call it.

    A step that was to be replaced, but whose successor never got its name, is put back.
    """
    if not checkpoints.is_dir():
        return
    for path in list(checkpoints.iterdir()):
        replaced = checkpoints / path.name.removeprefix(_REPLACED)
        if replaced != path and not replaced.exists():
            path.rename(replaced)
        elif path.name.startswith((".tmp-", ".trash-", _REPLACED)):
            shutil.rmtree(path, ignore_errors=True)


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a step, checked against its own hash; no other file is looked at.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    try:
        return Manifest.decode((folder / NAME).read_bytes())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the checkpoint {folder} is damaged: {error}") from error


def read_file(folder: Path, manifest: Manifest, name: str) -> bytes:
    """Return one file of a step, every byte checked against its hash.

    Raises:
        CheckpointError: The step has no such file, or it is missing, changed, or not where a manifest may point.
    """
    if name not in manifest.files:
        raise CheckpointError(f"the checkpoint {folder} holds no {name}, it has {', '.join(sorted(manifest.files))}")
    try:
        data = (folder / _inside(name)).read_bytes()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the checkpoint {folder} is damaged: {error}") from error
    if FileRecord.of(data) != manifest.files[name]:
        raise CheckpointError(f"the checkpoint {folder} is damaged: {name} is not what was saved")
    return data


def read_step(folder: Path) -> tuple[Manifest, dict[str, bytes]]:
    """Return the manifest of a step and all its files by name, every byte checked against its hash.

    Raises:
        CheckpointError: Something is missing, changed, or not where a manifest may point.
    """
    manifest = read_manifest(folder)
    return manifest, {name: read_file(folder, manifest, name) for name in manifest.files}


def _inside(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts:
        raise ValueError(f"the manifest names {name!r}, which is outside of the step folder")
    return name
