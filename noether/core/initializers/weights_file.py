"""Reads the weights of a `.safetensors` file, of a step, or of a run's checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from noether.core.initializers.run_folder import is_step, steps_of
from noether.core.writers.manifest import WEIGHTS
from noether.core.writers.saved_step import SavedStep
from noether.core.writers.step_names import Checkpoint
from noether.core.writers.tensor_reading import decode_tensors
from noether.core.writers.untrusted_file import read_chosen
from noether.errors import CheckpointError

_SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors, and where they are from.

    Attributes:
        tensors: By the name that the checkpoint gives them.
        source: The file.
    """

    tensors: dict[str, Tensor]
    source: Path


def read_weights(path: Path, checkpoint: str) -> Weights:
    """Return the weights that `path` holds; nothing else of a checkpoint is read.

    Args:
        path: A `.safetensors` file, a step's folder, or a run's folder.
        checkpoint: Which checkpoint of the run, where `path` is a run's folder.

    Raises:
        CheckpointError: There are no weights, or they are damaged.
    """
    if path.is_dir():
        return _of_step(path) if is_step(path) else weights_of_run(path, checkpoint)
    if not path.is_file():
        raise CheckpointError(
            f"{path} does not exist; expected a {_SUFFIX} file, the folder of a step or that of a run"
        )
    if path.suffix != _SUFFIX:
        raise CheckpointError(
            f"{path} is no {_SUFFIX} file; other formats can hold code, which is never run",
            hint="convert it once, where you trust it: safetensors.torch.save_file("
            f"torch.load({path.name!r}, weights_only=True), {path.with_suffix(_SUFFIX).name!r})",
        )
    return _of_file(path)


def weights_of_run(run: Path, checkpoint: str) -> Weights:
    """Return the weights of a run's checkpoint.

    Args:
        run: The run's folder.
        checkpoint: A name, as `StepNames` knows them.

    Raises:
        CheckpointError: There is no such checkpoint, or it is damaged.
    """
    return steps_of(run).load(checkpoint, _of_checkpoint)


def _of_checkpoint(found: Checkpoint) -> Weights:
    return Weights(found.tensors(), found.step.folder / found.weights)


def _of_step(folder: Path) -> Weights:
    return _of_checkpoint(Checkpoint(SavedStep.open(folder), WEIGHTS))


def _of_file(path: Path) -> Weights:
    """Read a file; one that belongs to a step is checked against the step's manifest."""
    for folder in path.parents:
        if is_step(folder):
            name = path.relative_to(folder).as_posix()
            return Weights(SavedStep.open(folder).tensors(name), path)
    try:
        return Weights(decode_tensors(read_chosen(path), {}), path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
