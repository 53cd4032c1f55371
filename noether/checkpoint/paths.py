"""PathProvider: where a run keeps things, and ResumptionPaths: where it finds what it is resumed from."""

from __future__ import annotations

from pathlib import Path


class PathProvider:
    """Names the files and folders of one run below the output folder; creates nothing.

    Args:
        output_path: The folder that holds one folder a run; made absolute, since the working folder may change while
            the run trains.
        run_id: Name of the run and of its folder.
    """

    def __init__(self, output_path: str | Path, run_id: str) -> None:
        self.output_path = Path(output_path).absolute()
        self.run_id = run_id
        self.run_path = self.output_path / run_id

    @property
    def checkpoint_path(self) -> Path:
        """The folder of the step folders."""
        return self.run_path / "checkpoints"

    @property
    def metrics_path(self) -> Path:
        """The metrics of the run, one JSON line a boundary."""
        return self.run_path / "metrics.jsonl"

    @property
    def log_path(self) -> Path:
        """What the run said on its output."""
        return self.run_path / "log.txt"

    @property
    def spec_path(self) -> Path:
        """The spec as the user gave it."""
        return self.run_path / "spec.toml"

    @property
    def resolved_spec_path(self) -> Path:
        """The spec with every default and inferred size; running it is the same run."""
        return self.run_path / "spec.resolved.toml"

    @property
    def attempts_path(self) -> Path:
        """One record for each start of this run."""
        return self.run_path / "attempts"

    @property
    def spool_path(self) -> Path:
        """What the trackers have acknowledged."""
        return self.run_path / "spool"

    @property
    def outputs_path(self) -> Path:
        """Files that callbacks write, one folder a callback id."""
        return self.run_path / "outputs"


class ResumptionPaths(PathProvider):
    """The paths of the run that training is resumed from, with the step that it continues from.

    Args:
        output_path: The folder that holds one folder a run.
        run_id: Name of the run.
        checkpoint_folder: The committed step folder; what a callback kept in files is in there.
    """

    def __init__(self, output_path: str | Path, run_id: str, checkpoint_folder: Path) -> None:
        super().__init__(output_path, run_id)
        self.checkpoint_folder = checkpoint_folder
