"""`checkpoint verify --deep`: the tensors of a step, loaded as a resume does; apart because it needs PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from noether.checkpoint.folder import read_file
from noether.checkpoint.manifest import Manifest
from noether.checkpoint.saved import SavedCheckpoint
from noether.checkpoint.tensor_file import all_finite, encode_tensors
from noether.errors import CheckpointError
from noether.runs.checkpoints import reason_of

_SHOWN = 3  # names in a message


def tensor_damages(folder: Path, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield the files whose content cannot be used, each with the reason.

    Args:
        folder: The step folder, whose bytes are those that were saved.
        manifest: Its manifest.
    """
    step = SavedCheckpoint(folder, manifest)
    for name in sorted(manifest.files):
        if name.endswith(".safetensors"):
            try:
                tensors = step.tensors(name)
            except CheckpointError as error:
                yield name, reason_of(error, folder)
                continue
            if bad := [key for key, tensor in tensors.items() if not all_finite([tensor])]:
                yield name, f"{_listed(bad)} {'is' if len(bad) == 1 else 'are'} not finite"
            if encode_tensors(tensors)[0] != read_file(folder, manifest, name):
                yield name, "written anew, its tensors give other bytes"
    try:
        step.state() if manifest.resumable else step.callbacks()
    except CheckpointError as error:
        yield "the state", reason_of(error, folder)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
