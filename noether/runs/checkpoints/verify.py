"""`checkpoint verify`: every byte of a checkpoint hashed, its tensors checked with `--deep`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from noether.checkpoint.manifest import NAME, Manifest
from noether.checkpoint.paths import read_file
from noether.errors import CheckpointError
from noether.kernel.names import listed
from noether.runs.checkpoints.listing import Listed, reason_of

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
