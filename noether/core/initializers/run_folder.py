"""Finds the checkpoints that an initializer is pointed to: those of a run, or a single step."""

from __future__ import annotations

from pathlib import Path

from noether.core.providers.path import PathProvider
from noether.core.writers.manifest import NAME
from noether.core.writers.step_names import StepNames
from noether.errors import CheckpointError
from noether.kernel.names import did_you_mean


def is_step(path: Path) -> bool:
    """Whether `path` is a step folder."""
    return (path / NAME).is_file()


def steps_of(run: Path) -> StepNames:
    """Return the checkpoints of a run by name.

    Args:
        run: The run's folder.

    Raises:
        CheckpointError: It is no run's folder.
    """
    checkpoints = PathProvider(run.parent, run.name).checkpoint_path
    if not checkpoints.is_dir():
        found = "has no checkpoints" if run.is_dir() else "does not exist"
        raise CheckpointError(
            f"{run} {found}; expected the folder of a run, or of a step",
            hint=f"a run's folder holds {checkpoints.name}/step-…; `noether run` prints where it is",
        )
    return StepNames(checkpoints)


def run_below(output: Path, run_id: str) -> Path:
    """Return the folder of the run `run_id` below `output`.

    Raises:
        CheckpointError: There is none; the message lists those that exist.
    """
    runs = sorted(path.name for path in output.iterdir() if path.is_dir()) if output.is_dir() else []
    if run_id not in runs:
        raise CheckpointError(
            f"there is no run {run_id!r} in {output}.{did_you_mean(run_id, runs)}",
            hint=f"it has {', '.join(runs) or 'none'}; `output` in the spec says where runs are",
        )
    return output / run_id
