"""Whether a checkpoint is what was saved: every byte hashed, and where asked for every tensor looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from noether.checkpoint.folder import read_file
from noether.checkpoint.manifest import NAME, Manifest
from noether.errors import CheckpointError
from noether.runs.checkpoints import Listed, reason_of


@dataclass(frozen=True, slots=True)
class Damage:
    """What is wrong with one file of a step, and why it is."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verifying a step has found.

    Attributes:
        step: The step.
        damages: What is wrong; empty where the step is valid.
    """

    step: Listed
    damages: tuple[Damage, ...]

    @property
    def is_valid(self) -> bool:
        """Whether every byte is what was saved."""
        return not self.damages


def verify_checkpoint(step: Listed, *, deep: bool = False) -> Verdict:
    """Hash every file of a step and compare it with the manifest.

    Args:
        step: The step.
        deep: Also load the tensors, check that they are finite, and write them anew to compare the bytes.
    """
    if step.manifest is None:
        return Verdict(step, (Damage(NAME, (step.problem or "").removeprefix(f"{NAME}: ")),))
    damages = tuple(_damages(step.folder, step.manifest))
    if deep and not damages:
        from noether.runs.verify_tensors import tensor_damages

        damages = tuple(Damage(file, reason) for file, reason in tensor_damages(step.folder, step.manifest))
    return Verdict(step, damages)


def _damages(folder: Path, manifest: Manifest) -> Iterator[Damage]:
    for name, record in sorted(manifest.files.items()):
        try:
            read_file(folder, manifest, name)
        except CheckpointError as error:
            yield Damage(name, _explained(folder / name, record.size, reason_of(error, folder)))


def _explained(path: Path, size: int, reason: str) -> str:
    """Return why a file is not accepted, in the words for what happens to files."""
    if not path.is_symlink():
        if not path.exists():
            return "it is missing"
        if path.is_file() and (found := path.stat().st_size) != size:
            return f"it has {found} bytes instead of {size}"
        if reason.endswith("is not what was saved"):
            return "its bytes are not those that were saved: the sha256 differs"
    return reason
