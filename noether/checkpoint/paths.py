"""Paths of a run and of its checkpoints: names, reading of a checkpoint folder, leftovers of interrupted saves."""

from __future__ import annotations

import logging
import os
import re
from functools import partial
from pathlib import Path

from noether.checkpoint import durable
from noether.checkpoint.manifest import MAX_BYTES, NAME, SPEC, FileRecord, Manifest, NewerFormatError
from noether.checkpoint.untrusted import NotPlainError, is_folder, names_inside, open_inside, read_untrusted
from noether.errors import CheckpointError


class PathProvider:
    """Paths of the files and folders of one run; creates nothing.

    Args:
        output_path: The folder that holds one folder a run; made absolute, since the working folder may change while
            the run trains.
        run_id: Name of the run and of its folder.

    Attributes:
        run_path: The folder that files are written to.
        home: The folder of the run.
        writes: False for a rank that leaves the run folder to another one.
    """

    def __init__(self, output_path: str | Path, run_id: str) -> None:
        self.output_path = Path(output_path).absolute()
        self.run_id = run_id
        self.run_path = self.home = self.output_path / run_id
        self.writes = True

    @classmethod
    def of_follower(cls, paths: PathProvider, scratch: Path) -> PathProvider:
        """Return the paths of a rank that leaves the run folder to another one, and what it writes to `scratch`."""
        own = cls(paths.output_path, paths.run_id)
        own.run_path, own.writes = scratch, False
        return own

    @property
    def checkpoint_path(self) -> Path:
        """The folder of the checkpoints."""
        return self.run_path / "checkpoints"

    @property
    def metrics_path(self) -> Path:
        """The metrics of the run, one line of JSON for each boundary."""
        return self.run_path / "metrics.jsonl"

    @property
    def log_path(self) -> Path:
        """The log of the run."""
        return self.run_path / "log.txt"

    @property
    def spec_path(self) -> Path:
        """The spec as the user gave it."""
        return self.run_path / "spec.toml"

    @property
    def resolved_spec_path(self) -> Path:
        """The spec with every default and inferred size; it gives the same run."""
        return self.run_path / SPEC

    @property
    def attempts_path(self) -> Path:
        """One record for each start of this run."""
        return self.run_path / "attempts"

    @property
    def spool_path(self) -> Path:
        """The positions of the trackers."""
        return self.run_path / "spool"

    @property
    def outputs_path(self) -> Path:
        """Files that callbacks write, one folder for each callback id."""
        return self.run_path / "outputs"


class ResumptionPaths(PathProvider):
    """The paths of the run that training is resumed from, with the checkpoint that it continues from.

    Args:
        output_path: The folder that holds one folder a run.
        run_id: Name of the run.
        checkpoint_folder: The checkpoint, with the state files of callbacks.
    """

    def __init__(self, output_path: str | Path, run_id: str, checkpoint_folder: Path) -> None:
        super().__init__(output_path, run_id)
        self.checkpoint_folder = checkpoint_folder


def shown_path(path: Path) -> Path:
    """Return a path as the user would type it: from the working folder where it is below, else absolute."""
    try:
        return path.relative_to(Path.cwd())
    except (ValueError, OSError):  # elsewhere, or the working folder is gone
        return path


_LOG = logging.getLogger("noether.checkpoints")
_PREFIX = "step-"
_STEP = re.compile(rf"{_PREFIX}([0-9]{{12,}})")
UNFINISHED, REPLACED, TRASH = ".tmp-", ".old-", ".trash-"
_LEFTOVER = re.compile(r"\.(tmp|old|trash)-.*")


def checkpoint_name(update: int) -> str:
    """Return the folder name of the checkpoint after `update` updates."""
    return f"{_PREFIX}{update:012d}"


def update_of(checkpoint: Path) -> int:
    """Return the update of a checkpoint from its name; -1 if it is not the name of a checkpoint."""
    match = _STEP.fullmatch(checkpoint.name)
    return int(match[1]) if match is not None and checkpoint_name(int(match[1])) == checkpoint.name else -1


def checkpoint_folders(checkpoints: Path) -> list[Path]:
    """Return the committed checkpoints of a run, ordered by update; entries with other names are ignored.

    Raises:
        CheckpointError: if the folder of the checkpoints is a link, or not a folder.
    """
    try:
        folders = [checkpoints / name for name in names_inside(checkpoints.parent, checkpoints)]
    except NotPlainError as error:
        raise CheckpointError(
            f"wrong folder of checkpoints: {error}", hint=f"put the checkpoints themselves in {checkpoints}"
        ) from error
    return sorted((path for path in folders if update_of(path) >= 0), key=update_of)


def read_checkpoint(folder: Path) -> tuple[Manifest, dict[str, bytes]]:
    """Return the manifest of a checkpoint and all its files by name, verified by their hashes.

    Raises:
        CheckpointError: if a file is missing, changed, or outside of the folder.
    """
    manifest = read_manifest(folder)
    return manifest, {name: read_file(folder, manifest, name) for name in manifest.files}


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a checkpoint, verified by its own hash; no other file is read.

    Raises:
        CheckpointError: if it is missing or damaged.
        NewerFormatError: if a newer version of Noether wrote it.
    """
    try:
        manifest = Manifest.decode(_read(folder, NAME, limit=MAX_BYTES))
        if update_of(folder) not in (-1, manifest.update):
            raise ValueError(f"found the manifest of {checkpoint_name(manifest.update)}")
    except NewerFormatError as error:
        raise NewerFormatError(*error.facts, where=f"the checkpoint {folder}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the checkpoint {folder} is damaged: {NAME}: {error}") from error
    return manifest


def read_file(folder: Path, manifest: Manifest, name: str) -> bytes:
    """Return one file of a checkpoint, verified by its hash.

    Raises:
        CheckpointError: if the manifest does not list the file, or it is missing, changed, or outside of the folder.
    """
    if name not in manifest.files:
        found = ", ".join(sorted(manifest.files))
        raise CheckpointError(f"the checkpoint {folder} lacks a file: found {found}, expected {name}")
    try:
        data = _read(folder, name, size=manifest.files[name].size)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the checkpoint {folder} is damaged: {error}") from error
    if FileRecord.of(data) != manifest.files[name]:
        raise CheckpointError(f"the checkpoint {folder} is damaged: {name} is not what was saved")
    return data


def _read(folder: Path, name: str, **limits: int) -> bytes:
    """Return the bytes of a file; neither the folder of the checkpoint nor that of all checkpoints may be a link."""
    run = folder.parent.parent
    return read_untrusted(run, name, below=folder.relative_to(run).as_posix(), **limits)


ABANDONED = "abandoned"
"""Folder in a run folder with checkpoints after the one from which the run was continued."""
DAMAGED = "damaged"
"""Folder in a run folder with what was damaged in it."""
_KEPT_DAMAGED = 8
_NUMBERED = re.compile(r"[0-9]{4,9}-")
_MOVED = re.compile(rf"{_PREFIX}[0-9]{{12,}}(-[0-9]+)?")


def abandoned_checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints in `abandoned/`, those that were moved there last at the end; links are left out."""
    folder = run / ABANDONED
    names = names_inside(run, folder) if is_folder(folder) else ()
    found = (folder / name for name in names if _MOVED.fullmatch(name))
    return sorted(filter(is_folder, found), key=lambda path: path.stat().st_mtime_ns)


def set_aside(run: Path, path: Path, *, stays: bool = False) -> Path:
    """Keep a damaged file or folder of a run in its folder `damaged/`, where the newest stay; return its path.

    Args:
        run: Folder of the run.
        path: A file or folder in it.
        stays: Leave the file in its place as well, until it is replaced.

    Raises:
        StorageError: if the disk refuses, or `damaged` is not a folder.
    """
    folder = run / DAMAGED
    try:
        durable.make_folders(folder, inside=run)
        kept = [name for name in names_inside(run, folder) if _NUMBERED.match(name)]  # a user's own files stay
        number = max((int(name.partition("-")[0]) for name in kept), default=0) + 1
        target = folder / f"{number:04d}-{'-'.join(path.relative_to(run).parts)}"
        if stays:
            with os.fdopen(open_inside(run, path), "rb") as file:
                durable.write_new_file(target, iter(partial(file.read, 1 << 20), b""))
        else:
            durable.rename(path, target)
        for old in kept[: 1 - _KEPT_DAMAGED]:
            durable.remove_tree(folder / old)
        durable.sync_folder(folder)
    except OSError as error:
        raise durable.storage_error(error, folder) from error
    return target


def sweep_leftovers(checkpoints: Path) -> None:
    """Remove leftovers of interrupted saves and removals; only the owner of the run may call it.

    A checkpoint that was to be replaced, but whose successor never got its name, is put back. Leftovers that the disk
    refuses to remove stay, with a warning.
    """
    if not is_folder(checkpoints):
        return
    for path in (checkpoints / name for name in names_inside(checkpoints.parent, checkpoints)):
        if not _LEFTOVER.fullmatch(path.name):
            continue
        replaced = checkpoints / path.name.removeprefix(REPLACED)
        try:
            if update_of(replaced) >= 0 and not os.path.lexists(replaced):
                durable.rename(path, replaced)
            else:
                durable.remove_tree(path)
        except OSError as error:
            _LOG.warning("cannot remove %s, a leftover of an interrupted save: %s", path, error.strerror or error)


def sweep_temporary_files(run: Path) -> None:
    """Remove files that a killed process was about to put in place; only the owner of the run may call it."""
    for folder in (run, run / "attempts", run / "spool"):
        if folder != run and not is_folder(folder):
            continue
        for path in (folder / name for name in names_inside(folder)):
            if (_TEMPORARY if folder != run / "spool" else _OF_SPOOL).fullmatch(path.name) and path.is_file():
                try:
                    durable.remove(path)
                except OSError as error:
                    _LOG.warning("cannot remove %s, a leftover of a killed process: %s", path, error.strerror or error)


_TEMPORARY, _OF_SPOOL = re.compile(r"\..+\.[0-9]+\.tmp"), re.compile(r".+\.new")
