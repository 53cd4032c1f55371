"""What is in one checkpoint, for people and programs that look at it."""

from __future__ import annotations

import json
from typing import Any

from noether.checkpoint.folder import read_file
from noether.checkpoint.manifest import Manifest
from noether.checkpoint.saved import SavedCheckpoint
from noether.checkpoint.state import TRAINER
from noether.errors import CheckpointError
from noether.runs.checkpoints import Listed


def contents_of(step: Listed) -> dict[str, Any]:
    """Return counters, origin, files with their tensors, and the callbacks that have a state, as JSON holds them.

    Raises:
        CheckpointError: The step is damaged.
    """
    manifest = step.manifest
    if manifest is None:
        raise CheckpointError(
            f"the checkpoint {step.folder} is damaged: {step.problem}",
            hint="`noether checkpoint list` shows the others",
        )
    return {
        "name": step.name,
        "names": list(step.names),
        "folder": str(step.folder),
        "epoch": manifest.epoch,
        "update": manifest.update,
        "samples": manifest.sample,
        "resumable": manifest.resumable,
        "pinned": step.pinned,
        "parent": manifest.parent,
        "spec_sha256": manifest.spec_sha256,
        "world_size": manifest.world_size,
        "callbacks": _callbacks(step, manifest),
        "files": _files(step, manifest),
    }


def _callbacks(step: Listed, manifest: Manifest) -> list[str]:
    """Return the ids of the callbacks that have a state in the step."""
    if TRAINER not in manifest.files:
        return []
    return sorted(json.loads(read_file(step.folder, manifest, TRAINER))["callbacks"])


def _files(step: Listed, manifest: Manifest) -> list[dict[str, Any]]:
    saved = SavedCheckpoint(step.folder, manifest)
    files = []
    for name, record in sorted(manifest.files.items()):
        described: dict[str, Any] = {"file": name, "size": record.size, "sha256": record.sha256}
        if name.endswith(".safetensors"):
            described["tensors"] = {
                key: {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
                for key, tensor in sorted(saved.tensors(name).items())
            }
        files.append(described)
    return files
