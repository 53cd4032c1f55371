"""The checkpoints of a run: list, find, show, verify and prune them, without PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from noether.checkpoint.durable import remove_tree, storage_error
from noether.checkpoint.manifest import NAME, Manifest
from noether.checkpoint.paths import (
    PathProvider,
    abandoned_checkpoints,
    checkpoint_folders,
    read_file,
    read_manifest,
    update_of,
)
from noether.checkpoint.retention import Retention, pinned, remove_checkpoint
from noether.checkpoint.untrusted import is_file_inside, parse_json
from noether.config.components import SpecTable
from noether.errors import CheckpointError
from noether.kernel.names import did_you_mean, listed
from noether.runs.folder.lock import RunLock
from noether.runs.saved_spec import read_part
from noether.spec.model import CheckpointsTable

LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Listed:
    """One checkpoint in a list.

    Attributes:
        folder: Folder of the checkpoint.
        manifest: Its manifest; None if it cannot be read.
        problem: Reason why the manifest cannot be read.
        names: Names beside its position: `latest`, `last`, `best_model.<metric>`.
        pinned: True if retention leaves it alone.
        size: Bytes of all files when it was listed.
    """

    folder: Path
    manifest: Manifest | None
    problem: str | None
    names: tuple[str, ...]
    pinned: bool
    size: int

    @property
    def name(self) -> str:
        """Position, `E1_U50_S3200`, or the name of the folder if that is all that is known."""
        return self.folder.name if self.manifest is None else self.manifest.iteration

    @property
    def update(self) -> int:
        """Completed updates."""
        return update_of(self.folder)

    @property
    def resumable(self) -> bool:
        """True if its manifest says that a run can resume from it."""
        return self.manifest is not None and self.manifest.resumable


def list_checkpoints(checkpoints: Path) -> list[Listed]:
    """Return the checkpoints of a run, oldest first, damaged ones too.

    Args:
        checkpoints: Folder of all checkpoints.
    """
    read = [(folder, *_manifest(folder)) for folder in checkpoint_folders(checkpoints)]
    manifests = [manifest for _, manifest, _ in read if manifest is not None]
    names = _names(manifests)
    by_pin = pinned(checkpoints)
    listed = []
    for folder, manifest, problem in read:
        update = update_of(folder)
        size = _size(folder, manifest)
        listed.append(Listed(folder, manifest, problem, names.get(update, ()), update in by_pin, size))
    return listed


def _size(folder: Path, manifest: Manifest | None) -> int:
    """Return the bytes of all files of a checkpoint."""
    files = manifest.files.values() if manifest else ()
    path = folder / NAME
    own = path.lstat().st_size if is_file_inside(folder.parent.parent, path) else 0
    return own + sum(file.size for file in files)


def find_checkpoint(checkpoints: Sequence[Listed], name: str) -> Listed:
    """Return the checkpoint of a name: one given when it was saved, its position, its folder, or `latest`.

    Args:
        checkpoints: The checkpoints of the run.
        name: The name; slashes of a metric key may be written as dots.

    Raises:
        CheckpointError: if there is none; the message lists those that exist.
    """
    if not checkpoints:
        raise CheckpointError(f"the run has no checkpoints, so none is called {name!r}")
    spelt = {name, name.replace("/", ".")}
    for checkpoint in reversed(checkpoints):
        if spelt & {*checkpoint.names, checkpoint.name, checkpoint.folder.name}:
            return checkpoint
    known = [known for checkpoint in checkpoints for known in (*checkpoint.names, checkpoint.name)]
    raise CheckpointError(
        f"unknown checkpoint of the run: found {name!r}, expected an existing one."
        f"{did_you_mean(name.replace('/', '.'), known)}",
        hint="it has " + ", ".join(known),
    )


def reason_of(error: CheckpointError, folder: Path) -> str:
    """Return the reason in an error of a checkpoint, without the name of the checkpoint."""
    return error.message.removeprefix(f"the checkpoint {folder} is damaged: ")


def _manifest(folder: Path) -> tuple[Manifest | None, str | None]:
    try:
        return read_manifest(folder), None
    except CheckpointError as error:
        return None, reason_of(error, folder)


def _names(manifests: Sequence[Manifest]) -> dict[int, tuple[str, ...]]:
    """Return the names by update, from the newest checkpoint: names in older ones may have moved."""
    names: dict[int, tuple[str, ...]] = {}
    if resumable := [manifest.update for manifest in manifests if manifest.resumable]:
        names[resumable[-1]] = (LATEST,)
    for name, named in sorted(manifests[-1].names.items()) if manifests else ():
        names[named.update] = (*names.get(named.update, ()), name)
    return names


def contents_of(checkpoint: Listed) -> dict[str, Any]:
    """Return counters, origin, files with their tensors, and the callbacks with a state, as the JSON output has them.

    Raises:
        CheckpointError: if the checkpoint is damaged.
    """
    manifest = checkpoint.manifest
    if manifest is None:
        raise CheckpointError(
            f"the checkpoint {checkpoint.folder} is damaged: {checkpoint.problem}",
            hint="`noether checkpoint list` shows the others",
        )
    return {
        "name": checkpoint.name,
        "names": list(checkpoint.names),
        "folder": str(checkpoint.folder),
        "epoch": manifest.epoch,
        "update": manifest.update,
        "samples": manifest.sample,
        "resumable": manifest.resumable,
        "pinned": checkpoint.pinned,
        "parent": manifest.parent,
        "spec_sha256": manifest.spec_sha256,
        "world_size": manifest.world_size,
        "callbacks": _callbacks(checkpoint, manifest),
        "files": _files(checkpoint, manifest),
    }


def _callbacks(checkpoint: Listed, manifest: Manifest) -> list[str]:
    """Return the ids of the callbacks with a state in the checkpoint."""
    from noether.checkpoint.state import TRAINER

    if TRAINER not in manifest.files:
        return []
    try:
        return sorted(map(str, parse_json(read_file(checkpoint.folder, manifest, TRAINER))["callbacks"]))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the checkpoint {checkpoint.folder} is damaged: {TRAINER}: {error}") from error


def _files(checkpoint: Listed, manifest: Manifest) -> list[dict[str, Any]]:
    from torch import Tensor

    from noether.checkpoint.saved import SavedCheckpoint

    saved = SavedCheckpoint(checkpoint.folder, manifest)
    files = []
    for name, record in sorted(manifest.files.items()):
        described: dict[str, Any] = {"file": name, "size": record.size, "sha256": record.sha256}
        if name.endswith(".safetensors"):
            state = saved.tensors(name)
            described["tensors"] = {
                key: {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
                for key, tensor in sorted(state.items())
                if isinstance(tensor, Tensor)
            }
            if values := sorted(state.keys() - described["tensors"].keys()):
                described["values"] = values
        files.append(described)
    return files


class _CheckpointsPart(SpecTable):
    checkpoints: CheckpointsTable = Field(default_factory=CheckpointsTable)


def _abandoned(run: Path) -> list[Listed]:
    """Return the checkpoints that resumes have moved aside."""
    found = [(folder, *_manifest(folder)) for folder in abandoned_checkpoints(run)]
    return [Listed(path, manifest, problem, (), False, _size(path, manifest)) for path, manifest, problem in found]


def prune_run(paths: PathProvider, *, keep_last: int | None = None, dry_run: bool = False) -> list[Listed]:
    """Remove the checkpoints of a run that nothing keeps, and those in `abandoned/`; return them.

    Args:
        paths: Paths of the run.
        keep_last: Number of the newest checkpoints to keep; by default that of the spec of the run.
        dry_run: Remove nothing.

    Raises:
        UsageError: if a process works on the run.
        SpecError: if the spec of the run, which decides what to keep, cannot be read.
        StorageError: if the disk refuses; no checkpoint is half removed.
    """
    kept = read_part(paths, _CheckpointsPart).checkpoints
    retention = Retention(keep_last or kept.keep_last, kept.keep_every)
    with nullcontext() if dry_run else RunLock(paths.run_path):
        checkpoints = list_checkpoints(paths.checkpoint_path)
        protected = {checkpoint.update for checkpoint in checkpoints if set(checkpoint.names) - {LATEST}}
        folders = retention.prunable(paths.checkpoint_path, protected)
        abandoned = _abandoned(paths.run_path)
        if not dry_run:
            for folder in (*folders, *(checkpoint.folder for checkpoint in abandoned)):
                try:
                    (remove_checkpoint if folder in folders else remove_tree)(folder)
                except OSError as error:
                    raise storage_error(error, folder) from error
    return [*abandoned, *(checkpoint for checkpoint in checkpoints if checkpoint.folder in folders)]


_SHOWN = 3  # names in a message


@dataclass(frozen=True, slots=True)
class Damage:
    """One damaged file of a checkpoint, with the reason."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of verifying a checkpoint.

    Attributes:
        checkpoint: The checkpoint.
        damages: Its damaged files; empty if it is valid.
    """

    checkpoint: Listed
    damages: tuple[Damage, ...]

    @property
    def is_valid(self) -> bool:
        """True if every byte is as it was saved."""
        return not self.damages


def verify_checkpoint(checkpoint: Listed, *, deep: bool = False) -> Verdict:
    """Hash every file of a checkpoint and compare it with the manifest.

    Args:
        checkpoint: The checkpoint.
        deep: Also load the tensors, check that they are finite, and write them anew to compare the bytes.
    """
    if checkpoint.manifest is None:
        return Verdict(checkpoint, (Damage(NAME, (checkpoint.problem or "").removeprefix(f"{NAME}: ")),))
    damages = tuple(_damages(checkpoint.folder, checkpoint.manifest))
    if deep and not damages:
        damages = tuple(
            Damage(file, reason) for file, reason in _tensor_damages(checkpoint.folder, checkpoint.manifest)
        )
    return Verdict(checkpoint, damages)


def _damages(folder: Path, manifest: Manifest) -> Iterator[Damage]:
    for name, record in sorted(manifest.files.items()):
        try:
            read_file(folder, manifest, name)
        except CheckpointError as error:
            yield Damage(name, _explained(folder / name, record.size, reason_of(error, folder)))


def _explained(path: Path, size: int, reason: str) -> str:
    """Return the reason why a file is not accepted, in words about files."""
    if not path.is_symlink():
        if not path.exists():
            return "it is missing"
        if path.is_file() and (found := path.lstat().st_size) != size:
            return f"it has {found} bytes instead of {size}"
        if reason.endswith("is not what was saved"):
            return "its bytes are not those that were saved: the sha256 differs"
    return reason


def _tensor_damages(folder: Path, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield the files whose content cannot be used, each with the reason.

    Args:
        folder: Folder of the checkpoint, whose bytes match its manifest.
        manifest: The manifest.
    """
    from torch import Tensor

    from noether.checkpoint.saved import SavedCheckpoint
    from noether.checkpoint.state import encode_state
    from noether.checkpoint.tensor_file import all_finite

    saved = SavedCheckpoint(folder, manifest)
    for name in sorted(manifest.files):
        if name.endswith(".safetensors"):
            try:
                state = saved.tensors(name)
            except CheckpointError as error:
                yield name, reason_of(error, folder)
                continue
            tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
            if bad := [key for key, tensor in tensors.items() if not all_finite([tensor])]:
                yield name, f"{listed(bad, _SHOWN)} {'is' if len(bad) == 1 else 'are'} not finite"
            if encode_state(state)[0] != read_file(folder, manifest, name):
                yield name, "written anew, its tensors give other bytes"
    try:
        saved.state() if manifest.resumable else saved.callbacks()
    except CheckpointError as error:
        yield "the state", reason_of(error, folder)
