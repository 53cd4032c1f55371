"""Step folders: their names, what is left of interrupted saves, and how they are read; `step_commit` writes them."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from noether.checkpoint import durable
from noether.checkpoint.manifest import MAX_BYTES, NAME, FileRecord, Manifest, NewerFormatError
from noether.checkpoint.untrusted import read_untrusted
from noether.errors import CheckpointError

_PREFIX = "step-"
_STEP = re.compile(rf"{_PREFIX}([0-9]{{12,}})")
UNFINISHED, REPLACED, TRASH = ".tmp-", ".old-", ".trash-"
_LEFTOVER = re.compile(r"\.(tmp|old|trash)-.*")
_LOG = logging.getLogger("noether.checkpoints")


def checkpoint_name(update: int) -> str:
    """Return the folder name of the step after `update` updates."""
    return f"{_PREFIX}{update:012d}"


def update_of(step: Path) -> int:
    """Return the update of a step folder from its name; -1 where the name is no step's."""
    match = _STEP.fullmatch(step.name)
    return int(match[1]) if match is not None and checkpoint_name(int(match[1])) == step.name else -1


def checkpoint_folders(checkpoints: Path) -> list[Path]:
    """Return the committed step folders by their update, never by their age; what has another name is none of ours."""
    if not checkpoints.is_dir():
        return []
    return sorted((path for path in checkpoints.iterdir() if update_of(path) >= 0), key=update_of)


def sweep_leftovers(checkpoints: Path) -> None:
    """Remove what interrupted saves and removals have left; only the owner of the run may call it.

    A step that was to be replaced, but whose successor never got its name, is put back. What the disk refuses to
    remove is told and stays: it is in nobody's way.
    """
    if not checkpoints.is_dir():
        return
    for path in sorted(checkpoints.iterdir()):
        if not _LEFTOVER.fullmatch(path.name):
            continue
        replaced = checkpoints / path.name.removeprefix(REPLACED)
        try:
            if update_of(replaced) >= 0 and not replaced.exists():
                durable.rename(path, replaced)
            else:
                durable.remove_tree(path)
        except OSError as error:
            _LOG.warning("cannot remove %s, which an interrupted save has left: %s", path, error.strerror or error)


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a step, checked against its own hash; no other file is looked at.

    Raises:
        CheckpointError: It is missing or damaged.
        NewerFormatError: A newer version of Noether wrote it.
    """
    try:
        manifest = Manifest.decode(read_untrusted(folder, NAME, limit=MAX_BYTES))
        if update_of(folder) not in (-1, manifest.update):
            raise ValueError(f"its manifest is that of {checkpoint_name(manifest.update)}")
    except NewerFormatError as error:
        raise NewerFormatError(*error.facts, where=f"the checkpoint {folder}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the checkpoint {folder} is damaged: {NAME}: {error}") from error
    return manifest


def read_file(folder: Path, manifest: Manifest, name: str) -> bytes:
    """Return one file of a step, every byte checked against its hash.

    Raises:
        CheckpointError: The step has no such file, or it is missing, changed, or not where a manifest may point.
    """
    if name not in manifest.files:
        raise CheckpointError(f"the checkpoint {folder} holds no {name}, it has {', '.join(sorted(manifest.files))}")
    try:
        data = read_untrusted(folder, name, size=manifest.files[name].size)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the checkpoint {folder} is damaged: {error}") from error
    if FileRecord.of(data) != manifest.files[name]:
        raise CheckpointError(f"the checkpoint {folder} is damaged: {name} is not what was saved")
    return data


def read_checkpoint(folder: Path) -> tuple[Manifest, dict[str, bytes]]:
    """Return the manifest of a step and all its files by name, every byte checked against its hash.

    Raises:
        CheckpointError: Something is missing, changed, or not where a manifest may point.
    """
    manifest = read_manifest(folder)
    return manifest, {name: read_file(folder, manifest, name) for name in manifest.files}
