"""`noether.load_run`: a run that exists, as Python objects: its spec, its metrics, its model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from noether.checkpoint.names import CheckpointNames
from noether.checkpoint.paths import PathProvider
from noether.core.models.base import ModelBase
from noether.core.models.weights import load_weights
from noether.runs.folder.run_folder import find_run
from noether.runs.prepare import preparation
from noether.runs.resume.continuation import final_metrics
from noether.runs.saved_spec import load_saved_spec
from noether.spec.load import LoadedSpec
from noether.spec.model import RunSpec


@dataclass(frozen=True)
class SavedRun:
    """A run that exists; its folder is not changed.

    Attributes:
        paths: Paths of the run.
        loaded: The spec, with the registry of its components.
        device: Device of the model.
    """

    paths: PathProvider
    loaded: LoadedSpec
    device: str = "cpu"

    def __repr__(self) -> str:
        return f"SavedRun({str(self.run_dir)!r}, device={self.device!r})"

    @property
    def run_dir(self) -> Path:
        """The run folder."""
        return self.paths.run_path

    @property
    def spec(self) -> RunSpec:
        """The resolved spec."""
        return self.loaded.spec

    @cached_property
    def metrics(self) -> dict[str, float]:
        """The last value of every metric key."""
        return final_metrics(self.paths)

    @cached_property
    def model(self) -> ModelBase:
        """The model with the weights of the newest sound checkpoint, in evaluation mode."""
        return self.model_at("latest")

    def model_at(self, checkpoint: str) -> ModelBase:
        """Build the model with the weights of a checkpoint, in evaluation mode.

        Args:
            checkpoint: `latest`, `last`, `best_model.<metric>`, `E…_U…_S…`.

        Raises:
            CheckpointError: if there is no such checkpoint, it is damaged, or it holds only a part of the weights.
        """
        found, tensors = CheckpointNames(self.paths.checkpoint_path).load_weights(checkpoint)
        with preparation(self.loaded, device=self.device) as prepared:
            model = prepared.model()
        load_weights(model, tensors, found.path, hint="name a checkpoint of whole weights")
        return model.eval()


def load_run(
    run: str | Path,
    *,
    output: str | Path = "runs",
    device: str = "cpu",
    trust: Iterable[str] = (),
    project: Path | None = None,
) -> SavedRun:
    """Load a run that exists.

    Args:
        run: Folder of the run, or its id below `output`.
        output: Folder that holds the runs.
        device: Device of the model.
        trust: Further packages that dotted kinds may import.
        project: Project folder with the code that the spec names; by default the project of the working folder.

    Raises:
        UsageError: if there is no such run, or its spec cannot be loaded.
    """
    paths = find_run(run, output)
    return SavedRun(paths, load_saved_spec(paths, project=project, trusted=trust), device)
