"""Paths of a run, and of the run that it is resumed from; paths in messages."""

from __future__ import annotations

from pathlib import Path


class PathProvider:
    """Paths of the files and folders of one run; creates nothing.

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
        """The folder of the checkpoints."""
        return self.run_path / "checkpoints"

    @property
    def metrics_path(self) -> Path:
        """The metrics of the run, one line of JSON for each boundary."""
        return self.run_path / "metrics.jsonl"

    @property
    def log_path(self) -> Path:
        """The log of the run."""
        return self.run_path / "log.txt"

    @property
    def spec_path(self) -> Path:
        """The spec as the user gave it."""
        return self.run_path / "spec.toml"

    @property
    def resolved_spec_path(self) -> Path:
        """The spec with every default and inferred size; it gives the same run."""
        return self.run_path / "spec.resolved.toml"

    @property
    def attempts_path(self) -> Path:
        """One record for each start of this run."""
        return self.run_path / "attempts"

    @property
    def spool_path(self) -> Path:
        """The positions of the trackers."""
        return self.run_path / "spool"

    @property
    def outputs_path(self) -> Path:
        """Files that callbacks write, one folder for each callback id."""
        return self.run_path / "outputs"


class ResumptionPaths(PathProvider):
    """The paths of the run that training is resumed from, with the checkpoint that it continues from.

    Args:
        output_path: The folder that holds one folder a run.
        run_id: Name of the run.
        checkpoint_folder: The checkpoint, with the state files of callbacks.
    """

    def __init__(self, output_path: str | Path, run_id: str, checkpoint_folder: Path) -> None:
        super().__init__(output_path, run_id)
        self.checkpoint_folder = checkpoint_folder


def shown_path(path: Path) -> Path:
    """Return a path as the user would type it: from the working folder where it is below, else absolute."""
    try:
        return path.relative_to(Path.cwd())
    except (ValueError, OSError):  # elsewhere, or the working folder is gone
        return path
