"""After a resume, the state is hashed again: what does not come back as it was saved is found at once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from noether.checkpoint.durable import Content
from noether.checkpoint.folder import read_file
from noether.checkpoint.manifest import OPTIMIZER, WEIGHTS, FileRecord
from noether.checkpoint.save import SaveRequest
from noether.checkpoint.saved import SavedCheckpoint
from noether.checkpoint.state import TRAINER, encode_checkpoint
from noether.core.models.base import ModelBase
from noether.errors import CheckpointError

if TYPE_CHECKING:
    from noether.training.trainers.base import BaseTrainer

_MATHEMATICS = (WEIGHTS, OPTIMIZER, "rank-")


def verify_restored(trainer: BaseTrainer, model: ModelBase, step: SavedCheckpoint, *, same_spec: bool) -> None:
    """Compare the state that a resume has put in place with the step that it came from, byte by byte.

    Args:
        trainer: Restored, no hook called yet.
        model: Its model.
        step: The step.
        same_spec: Whether the spec is that which it was saved with; otherwise options and callbacks differ rightly.

    Raises:
        CheckpointError: Something does not come back as it was saved.
    """
    files, _ = encode_checkpoint(trainer.capture_state(model), SaveRequest.whole())
    for name, record in step.manifest.files.items():
        if not same_spec and not name.startswith(_MATHEMATICS):
            continue
        if name not in files or FileRecord.of(files[name]) != record:
            raise _not_as_saved(name, files.get(name), step)


def _not_as_saved(name: str, content: Content | None, step: SavedCheckpoint) -> CheckpointError:
    where = name
    if name == TRAINER and isinstance(content, bytes):
        where = f"{name}, at {_first_difference(_saved_tree(step, name), json.loads(content))}"
    return CheckpointError(
        f"what was restored from {step.folder} is not what was saved: it differs in {where}",
        hint="a callback's load_state_dict has to take back all that its state_dict returns; without that callback the "
        "run can be continued",
    )


def _saved_tree(step: SavedCheckpoint, name: str) -> Any:
    return json.loads(read_file(step.folder, step.manifest, name))


def _first_difference(saved: Any, restored: Any, path: str = "") -> str:
    """Return the path of the first value that differs between two trees."""
    if isinstance(saved, dict) and isinstance(restored, dict):
        for key in sorted(saved.keys() | restored.keys()):
            if saved.get(key) != restored.get(key):
                return _first_difference(saved.get(key), restored.get(key), f"{path}.{key}".removeprefix("."))
    return f"{path} ({saved!r:.60} was saved, {restored!r:.60} is there)"
