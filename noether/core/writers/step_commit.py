"""How a step folder is written: a save exists completely or not at all.

1. Every file is written into a temporary folder beside the steps and synced, hashed on its way, the manifest last.
2. The temporary folder and those in it are synced.
3. It is renamed, once, and the folder of the steps is synced. This is the commit: only now is the save acknowledged,
   and only now may anything older be removed.

Whatever dies in between leaves the older steps as they were. A step is never written to.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from noether.core.writers import durable
from noether.core.writers.content import Chunk, Content, chunks_of
from noether.core.writers.manifest import NAME, FileRecord, Manifest
from noether.core.writers.step_folder import REPLACED, UNFINISHED, read_step, step_name
from noether.errors import CheckpointError


def commit_step(checkpoints: Path, files: Mapping[str, Content], manifest: Manifest) -> Path:
    """Store `files` and their manifest as one step; return its folder once that is final.

    Args:
        checkpoints: The folder of the step folders; it exists.
        files: What the step holds, by relative path.
        manifest: What is said of the step; sizes and hashes of the files are filled in here.

    Raises:
        StorageError: The disk refused; older steps are untouched, and of this one nothing or everything is there.
    """
    target = checkpoints / step_name(manifest.update)
    temporary = checkpoints / f"{UNFINISHED}{target.name}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        manifest = _write_files(temporary, files, manifest)
        if target.exists() and _is_saved(target, manifest):
            durable.remove_tree(temporary)
            durable.sync_folder(checkpoints)  # whoever saved it may have died before this
        else:
            _put_in_place(temporary, target)
    except OSError as error:
        with contextlib.suppress(OSError):  # the refusal itself is what the user must hear of
            durable.remove_tree(temporary)
        raise durable.storage_error(error, target, needed=sum(map(len, files.values()))) from error
    return target


def _write_files(folder: Path, files: Mapping[str, Content], manifest: Manifest) -> Manifest:
    """Write all files into a new folder, so that they are on the disk; return their manifest."""
    subfolders = {folder, *(parent for name in files for parent in (folder / name).parents)}
    inside = sorted(parent for parent in subfolders if parent.is_relative_to(folder))
    for subfolder in inside:
        durable.make_folder(subfolder)
    records = {name: _write_file(folder / name, content) for name, content in files.items()}
    manifest = replace(manifest, files=records)
    durable.write_new_file(folder / NAME, [manifest.encode()])
    for subfolder in reversed(inside):
        durable.sync_folder(subfolder)
    return manifest


def _write_file(path: Path, content: Content) -> FileRecord:
    digest = hashlib.sha256()
    durable.write_new_file(path, _hashed(chunks_of(content), digest))
    return FileRecord(len(content), digest.hexdigest())


class _Hash(Protocol):
    def update(self, data: Chunk, /) -> None: ...


def _hashed(chunks: Iterable[Chunk], digest: _Hash) -> Iterator[Chunk]:
    for chunk in chunks:
        digest.update(chunk)
        yield chunk


def _is_saved(step: Path, manifest: Manifest) -> bool:
    """Whether a step is what is to be saved, each byte checked; a run that is repeated comes to the same bytes."""
    try:
        return read_step(step)[0] == manifest
    except CheckpointError:
        return False


def _put_in_place(finished: Path, target: Path) -> None:
    """Give a finished folder its name; an older save of the same update goes only when the new one is there.

    Between the two renames the older save has a name that `sweep_leftovers` turns back.
    """
    replaced = target.with_name(REPLACED + target.name)
    if target.exists():
        if replaced.exists():
            durable.remove_tree(replaced)
        durable.rename(target, replaced)
    try:
        durable.rename(finished, target)
    except OSError:
        if replaced.exists():
            durable.rename(replaced, target)
        raise
    durable.sync_folder(target.parent)
    if replaced.exists():
        with contextlib.suppress(OSError):  # the next start sweeps it
            durable.remove_tree(replaced)
