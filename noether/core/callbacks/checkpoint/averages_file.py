"""How a resumed run finds its averaged weights and takes them over."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from noether.core.providers.path import PathProvider, ResumptionPaths
from noether.core.writers.saved_step import SavedStep
from noether.core.writers.step_folder import list_steps
from noether.core.writers.step_names import StepNames
from noether.core.writers.step_state import callback_file
from noether.errors import CheckpointError

_LOG = logging.getLogger("noether.callbacks.ema")


def find_averages(paths: PathProvider, owner: str, name: str) -> tuple[dict[str, Tensor], str] | None:
    """Return averages by name, and where they were found; None where they are nowhere.

    Args:
        paths: Those of the run that is resumed.
        owner: Id of the callback that saved them.
        name: Which of its files.
    """
    file = callback_file(owner, name)
    for index, folder in enumerate(_places(paths)):
        try:
            step = SavedStep.open(folder)
            if file not in step.manifest.files:
                continue
            tensors = step.tensors(file)
        except CheckpointError as error:
            _LOG.warning("%s", error)
            continue
        if index:
            _LOG.warning("the checkpoint holds no %s; the averages are taken from %s", file, folder)
        return tensors, str(folder / file)
    return None


def load_averages(averages: Mapping[str, Tensor], saved: Mapping[str, Tensor], source: str) -> None:
    """Copy saved values into the tensors of the same names.

    Args:
        averages: What to fill.
        saved: The values.
        source: Where they come from, for the error.

    Raises:
        CheckpointError: A name is missing or too many, or a shape is another.
    """
    if averages.keys() != saved.keys():
        missing, extra = sorted(averages.keys() - saved.keys()), sorted(saved.keys() - averages.keys())
        raise CheckpointError(
            f"{source} holds averages of other weights than this run's: it lacks {missing or 'none'}, and has "
            f"{extra or 'none'} beside them",
            hint="resume with the model and the model_paths of the run that saved it",
        )
    for name, tensor in saved.items():
        if averages[name].shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)}, here it has {tuple(averages[name].shape)}"
            raise CheckpointError(f"{name} has the shape {shapes}, in {source}")
        averages[name].copy_(tensor)


def _places(paths: PathProvider) -> Iterator[Path]:
    """Yield where to look: the step itself, the newest one before it, the last."""
    step = paths.step_path if isinstance(paths, ResumptionPaths) else None
    if step is not None:
        yield step
    steps = list_steps(paths.checkpoint_path)
    yield from (folder for folder in reversed(steps) if step is None or folder.name < step.name)
    try:
        yield StepNames(paths.checkpoint_path).find("last").step.folder
    except CheckpointError:
        return
