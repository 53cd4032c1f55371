"""Commit a checkpoint: it exists completely or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from noether.checkpoint import durable
from noether.checkpoint.durable import Chunk, Content, chunks_of
from noether.checkpoint.manifest import NAME, SHARDS, FileRecord, Manifest, whole_file
from noether.checkpoint.paths import (
    REPLACED,
    UNFINISHED,
    checkpoint_folders,
    checkpoint_name,
    read_checkpoint,
    read_manifest,
    sweep_leftovers,
)
from noether.checkpoint.retention import Retention, prune_checkpoints, remove_checkpoint
from noether.checkpoint.untrusted import is_folder
from noether.errors import CheckpointError, StorageError

if TYPE_CHECKING:
    from noether.checkpoint.shards import Parts, Ranked  # imports torch

_LOG = logging.getLogger("noether.checkpoints")
WriteParts: TypeAlias = Callable[[Path], Mapping[str, FileRecord]]
"""Writes parts into an unfinished checkpoint, and returns the records of all ranks' files."""


class CheckpointFolder:
    """The folder of a run's checkpoints: saves and prunes them.

    Args:
        path: The folder of the checkpoints.

    Attributes:
        require_own: Raises `RunLostError` if the run is not that of this process any more; called before each change.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.require_own: Callable[[], object] = always_own
        self._is_prepared = False
        self._has_warned = False

    @property
    def checkpoints(self) -> list[Path]:
        """The committed checkpoints, oldest first."""
        return checkpoint_folders(self.path)

    def prepare(self) -> None:
        """Create the folder if it is missing, remove leftovers, and check that files can be written.

        Raises:
            StorageError: if they cannot.
        """
        self.require_own()
        try:
            durable.make_folders(self.path, inside=self.path.parent)
            sweep_leftovers(self.path)
            durable.sync_folder(self.path)  # a killed process may have renamed a checkpoint without this
        except OSError as error:
            raise durable.storage_error(error, self.path) from error
        durable.probe(self.path)
        self._is_prepared = True

    def commit(self, files: Mapping[str, Content], manifest: Manifest, parts: WriteParts | None = None) -> Path:
        """Store one checkpoint; see `commit_checkpoint`.

        Raises:
            StorageError: if the disk refuses.
            FolderGoneError: if the folder was removed while the run trained. It is not created again, because it may
                have been removed on purpose.
            RunLostError: if the run is not that of this process any more; nothing is written.
        """
        if not self._is_prepared:
            self.prepare()
        elif not is_folder(self.path):
            raise FolderGoneError(self.path)
        self.require_own()
        return commit_checkpoint(self.path, files, manifest, require_own=self.require_own, parts=parts)

    def prune(self, retention: Retention, protected: Collection[int]) -> None:
        """Remove the checkpoints that nothing keeps; if the disk refuses, warn and go on."""
        try:
            prune_checkpoints(self.path, retention, protected=protected)
        except (OSError, CheckpointError) as error:
            _LOG.warning("cannot list old checkpoints in %s: %s", self.path, getattr(error, "strerror", None) or error)

    def cut(self, outdated: Mapping[int, frozenset[str]], retention: Retention, protected: Collection[int]) -> None:
        """Remove files from checkpoints that have a successor; if the disk refuses, warn and go on.

        Args:
            outdated: Files to remove by update of the checkpoint.
            retention: Checkpoints that its update or a pin keeps stay as they are.
            protected: Updates of the checkpoints that have names; they stay as well.
        """
        for update, files in outdated.items():
            checkpoint = self.path / checkpoint_name(update)
            if not is_folder(checkpoint) or retention.is_kept(checkpoint, protected):
                continue
            try:
                _cut(checkpoint, files)
            except (OSError, CheckpointError, StorageError) as error:
                _LOG.warning("cannot remove outdated files from %s: %s", checkpoint, error)

    def warn_if_short_of_room(self, size: int, retention: Retention) -> None:
        """Warn once if the disk has no room for the checkpoints to keep and the one that is being written.

        Args:
            size: Bytes of one checkpoint.
            retention: The checkpoints to keep; those that a name or a pin protects are not counted.
        """
        free = durable.free_bytes(self.path)
        wanted = max(retention.keep_last, 1) + 1
        needed = size * max(wanted - len(self.checkpoints), 1)
        if self._has_warned or free is None or free >= needed:
            return
        self._has_warned = True
        _LOG.warning(
            "a checkpoint of this run has %s; %d of them at once need %s more, but only %s are free in %s",
            durable.size_text(size),
            wanted,
            durable.size_text(needed),
            durable.size_text(free),
            self.path,
        )


class SharedSave:
    """One save of all ranks: each writes its parts, and nothing is committed if one of them fails.

    Args:
        parts: The parts of this rank.
        ranks: The ranks of the run.
    """

    def __init__(self, parts: Parts, ranks: Ranked) -> None:
        self._parts, self._ranks = parts, ranks
        self._has_begun = False

    def lead(self, commit: Callable[[WriteParts], Path]) -> Path:
        """Commit on rank 0; `commit` calls its argument once the unfinished folder is there.

        Raises:
            StorageError: if the disk refuses on a rank.
        """
        try:
            checkpoint = commit(self._begin)
        except StorageError as error:
            if not self._has_begun:
                self._ranks.share(None)
            self._ranks.share(error.message)
            raise
        self._ranks.share(None)
        return checkpoint

    def follow(self) -> None:
        """Write the parts of another rank, and wait until rank 0 has committed the checkpoint.

        Raises:
            StorageError: if the disk refuses on a rank; all ranks raise it.
        """
        folder = self._ranks.share(None)
        if folder is not None:
            self._write(folder)
        if (refusal := self._ranks.share(None)) is not None:
            raise StorageError(refusal, hint="everything that was committed before is still valid")

    def _begin(self, folder: Path) -> dict[str, FileRecord]:
        durable.make_folder(folder / SHARDS)
        self._ranks.share(folder)
        self._has_begun = True
        found = self._write(folder)
        for rank, (_, number, text) in enumerate(found):
            if number is not None:
                raise OSError(number, f"{text} (rank {rank})")
        durable.sync_folder(folder / SHARDS)
        return {name: record for records, _, _ in found for name, record in records.items()}

    def _write(self, folder: Path) -> list[tuple[dict[str, FileRecord], int | None, str]]:
        """Write the parts of this rank; return the records, or the error, of all ranks."""
        records: dict[str, FileRecord] = {}
        number, text = None, ""
        try:
            made: set[Path] = {folder, folder / SHARDS}
            for name, content in self._parts.files.items():
                for parent in reversed((folder / name).parents):
                    if parent.is_relative_to(folder) and parent not in made:
                        durable.make_folder(parent)
                        made.add(parent)
                records[name] = write_file(folder / name, content)
            for parent in made - {folder, folder / SHARDS}:
                durable.sync_folder(parent)
        except OSError as error:
            number, text = error.errno or 0, error.strerror or str(error)
            if isinstance(error, FileNotFoundError):
                text = "the ranks of a sharded run need one folder that all of their machines see"
        return self._ranks.gather((records, number, text))


def always_own() -> None:
    """Take a run for that of this process: a trainer that is built by hand has no lock."""


class RunLostError(StorageError):
    """The run is not that of this process any more: it ends, and writes nothing more."""


class FolderGoneError(RunLostError):
    """The folder of a run's checkpoints was removed or renamed while the run trained.

    Args:
        path: Its path.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"cannot save: {path} was removed or renamed while the run trained",
            hint="put it back and resume, or start a new run",
        )


def _cut(checkpoint: Path, files: frozenset[str]) -> None:
    """Remove files from a checkpoint, or the checkpoint if these are all of its files.

    Its manifest comes first: a file that it does not list is ignored by readers.
    """
    manifest = read_manifest(checkpoint)
    left = {name: record for name, record in manifest.files.items() if whole_file(name) not in files}
    if not left:
        remove_checkpoint(checkpoint)
        return
    aliases = {name: table for name, table in manifest.aliases.items() if name in left}
    smaller = replace(manifest, files=left, aliases=aliases, resumable=False)
    durable.replace_file(checkpoint / NAME, smaller.encode(), inside=checkpoint.parent)
    for name in manifest.files.keys() - left.keys():
        durable.remove(checkpoint / name)


def commit_checkpoint(
    checkpoints: Path,
    files: Mapping[str, Content],
    manifest: Manifest,
    *,
    require_own: Callable[[], object] = always_own,
    parts: WriteParts | None = None,
) -> Path:
    """Store `files` and their manifest as one checkpoint; return its folder once that is final.

    Args:
        checkpoints: The folder of the checkpoints; it exists.
        files: Content of the checkpoint's files, by relative path.
        manifest: Its manifest; sizes and hashes of the files are filled in here.
        require_own: Raises an error if the run is not that of this process any more.
        parts: Writes the parts of all ranks into the unfinished folder, and returns their records.

    Raises:
        StorageError: if the disk refuses; older checkpoints are untouched, this one is complete or does not exist.
        RunLostError: from `require_own`.
    """
    target = checkpoints / checkpoint_name(manifest.update)
    temporary = checkpoints / f"{UNFINISHED}{target.name}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        manifest = _write_files(temporary, files, manifest, parts)
        require_own()  # it took a while
        if os.path.lexists(target) and _is_saved(target, manifest):
            durable.remove_tree(temporary)
            durable.sync_folder(checkpoints)  # the process that saved it may have died before this
        else:
            _put_in_place(temporary, target)
    except OSError as error:
        with contextlib.suppress(OSError):  # the first error is the cause, and the one to report
            durable.remove_tree(temporary)
        raise durable.storage_error(error, target, needed=sum(map(len, files.values()))) from error
    return target


def _write_files(folder: Path, files: Mapping[str, Content], manifest: Manifest, parts: WriteParts | None) -> Manifest:
    """Write all files into a new folder, so that they are on the disk; return their manifest."""
    subfolders = {folder, *(parent for name in files for parent in (folder / name).parents)}
    inside = sorted(parent for parent in subfolders if parent.is_relative_to(folder))
    for subfolder in inside:
        durable.make_folder(subfolder)
    records = {} if parts is None else dict(parts(folder))
    records |= {name: write_file(folder / name, content) for name, content in files.items()}
    manifest = replace(manifest, files=records)
    durable.write_new_file(folder / NAME, [manifest.encode()])
    for subfolder in reversed(inside):
        durable.sync_folder(subfolder)
    return manifest


def write_file(path: Path, content: Content) -> FileRecord:
    """Write a new file, and return its size and hash."""
    digest = hashlib.sha256()
    durable.write_new_file(path, _hashed(chunks_of(content), digest))
    return FileRecord(len(content), digest.hexdigest())


class _Hash(Protocol):
    def update(self, data: Chunk, /) -> None: ...


def _hashed(chunks: Iterable[Chunk], digest: _Hash) -> Iterator[Chunk]:
    for chunk in chunks:
        digest.update(chunk)
        yield chunk


def _is_saved(checkpoint: Path, manifest: Manifest) -> bool:
    """Return True if a checkpoint has the bytes that are to be saved, as after repeating a part of a run."""
    try:
        return read_checkpoint(checkpoint)[0] == manifest
    except CheckpointError:
        return False


def _put_in_place(finished: Path, target: Path) -> None:
    """Give a finished folder its name; an older save of the same update is removed after that.

    Between the two renames the older save has a name that `sweep_leftovers` reverts.
    """
    replaced = target.with_name(REPLACED + target.name)
    if os.path.lexists(target):
        if os.path.lexists(replaced):
            durable.remove_tree(replaced)
        durable.rename(target, replaced)
    try:
        durable.rename(finished, target)
    except OSError:
        if os.path.lexists(replaced):
            durable.rename(replaced, target)
        raise
    durable.sync_folder(target.parent)
    if os.path.lexists(replaced):
        with contextlib.suppress(OSError):  # the next start sweeps it
            durable.remove_tree(replaced)
