"""The checkpoints of a run as people look at them: read from manifests, without PyTorch and without the tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from noether.checkpoint import retention as pins
from noether.checkpoint.folder import checkpoint_folders, read_manifest, update_of
from noether.checkpoint.manifest import NAME, Manifest
from noether.core.utils.nearest import did_you_mean
from noether.errors import CheckpointError

LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Listed:
    """One step folder.

    Attributes:
        folder: The step folder.
        manifest: What is in it; None where that cannot be read.
        problem: Why it cannot be read.
        names: What it goes by beside its position: `latest`, `last`, `best_model.<metric>`.
        pinned: Whether retention leaves it alone.
    """

    folder: Path
    manifest: Manifest | None
    problem: str | None
    names: tuple[str, ...]
    pinned: bool

    @property
    def name(self) -> str:
        """Its position, `E1_U50_S3200`, or its folder where only that is known."""
        return self.folder.name if self.manifest is None else self.manifest.iteration

    @property
    def update(self) -> int:
        """The completed updates."""
        return update_of(self.folder)

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        files = self.manifest.files.values() if self.manifest else ()
        manifest = self.folder / NAME
        return sum(file.size for file in files) + (manifest.stat().st_size if manifest.is_file() else 0)

    @property
    def resumable(self) -> bool:
        """Whether a run can go on from it, as far as its manifest says."""
        return self.manifest is not None and self.manifest.resumable


def list_checkpoints(checkpoints: Path) -> list[Listed]:
    """Return the steps of a run, oldest first, damaged ones too.

    Args:
        checkpoints: The folder of the step folders.
    """
    read = [(folder, *_manifest(folder)) for folder in checkpoint_folders(checkpoints)]
    manifests = [manifest for _, manifest, _ in read if manifest is not None]
    names = _names(manifests)
    pinned = pins.pinned(checkpoints)
    return [
        Listed(folder, manifest, problem, names.get(update_of(folder), ()), update_of(folder) in pinned)
        for folder, manifest, problem in read
    ]


def find_checkpoint(steps: Sequence[Listed], name: str) -> Listed:
    """Return the step that goes by `name`: given when it was saved, its position, its folder, or `latest`.

    Args:
        steps: The steps of the run.
        name: The name; a metric's slashes may be written as slashes or as dots.

    Raises:
        CheckpointError: There is none; the message lists those that exist.
    """
    if not steps:
        raise CheckpointError(f"the run has no checkpoints, so none is called {name!r}")
    spelt = {name, name.replace("/", ".")}
    for step in reversed(steps):
        if spelt & {*step.names, step.name, step.folder.name}:
            return step
    known = [known for step in steps for known in (*step.names, step.name)]
    raise CheckpointError(
        f"the run has no checkpoint {name!r}.{did_you_mean(name.replace('/', '.'), known)}",
        hint="it has " + ", ".join(known),
    )


def reason_of(error: CheckpointError, folder: Path) -> str:
    """Return what an error says about a step without repeating which step it is."""
    return error.message.removeprefix(f"the checkpoint {folder} is damaged: ")


def _manifest(folder: Path) -> tuple[Manifest | None, str | None]:
    try:
        return read_manifest(folder), None
    except CheckpointError as error:
        return None, reason_of(error, folder)


def _names(manifests: Sequence[Manifest]) -> dict[int, tuple[str, ...]]:
    """Return the names of each update. The newest step knows all that were given; what older ones say may be old."""
    names: dict[int, tuple[str, ...]] = {}
    if resumable := [manifest.update for manifest in manifests if manifest.resumable]:
        names[resumable[-1]] = (LATEST,)
    for name, named in sorted(manifests[-1].names.items()) if manifests else ():
        names[named.update] = (*names.get(named.update, ()), name)
    return names
