"""`noether.load_run`: a run that exists, as Python objects: its spec, metrics and results, its model, predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from noether.checkpoint.paths import PathProvider
from noether.checkpoint.saved import Checkpoint, CheckpointNames
from noether.core.models.base import ModelBase
from noether.core.models.weights import load_weights
from noether.errors import UsageError
from noether.kernel.names import did_you_mean
from noether.metrics.metrics_file import MetricsFile
from noether.metrics.results import Result, results_in
from noether.runs.folder.run_folder import find_run
from noether.runs.predict.inputs import Inputs
from noether.runs.predict.predictor import Predictor
from noether.runs.prepare import preparation
from noether.runs.resume.continuation import final_metrics
from noether.runs.saved_spec import load_saved_spec
from noether.spec.load import LoadedSpec
from noether.spec.model import RunSpec

if TYPE_CHECKING:
    from pandas import DataFrame


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
    _predictors: dict[tuple[Any, ...], Predictor] = field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        return f"SavedRun({str(self.run_dir)!r}, device={self.device!r})"

    def _repr_html_(self) -> str:
        """Return the run as a notebook shows it: facts, evaluation metrics, curves and settings."""
        from noether.runs.results.report.notebook import html_of_run

        return html_of_run(self.paths)

    @property
    def run_dir(self) -> Path:
        """The run folder."""
        return self.paths.run_path

    @property
    def spec(self) -> RunSpec:
        """The resolved spec."""
        return self.loaded.spec

    @cached_property
    def metrics(self) -> DataFrame:
        """The metrics of the run as a table: a row for each line of `metrics.jsonl`, with update, epoch and sample.

        Raises:
            StorageError: if the file is damaged.
        """
        from pandas import DataFrame

        records = list(MetricsFile(self.paths.metrics_path).read())
        keys = dict.fromkeys(key for record in records for key in record.metrics)
        rows = [{"update": r.update, "epoch": r.epoch, "sample": r.sample, **r.metrics} for r in records]
        return DataFrame(rows, columns=["update", "epoch", "sample", *keys])

    @cached_property
    def results(self) -> DataFrame:
        """The figures, tables, histograms and files of the run: a row for each, with update, key, kind and path.

        Raises:
            StorageError: if their list is damaged.
        """
        from pandas import DataFrame

        rows = [
            (one.update, one.epoch, one.sample, one.key, one.kind, self.run_dir / one.file) for one in self._results
        ]
        return DataFrame(rows, columns=["update", "epoch", "sample", "key", "kind", "path"])

    def table(self, key: str, update: int | None = None) -> DataFrame:
        """Return a table of the run, or a histogram as a table of `low`, `high` and `count`.

        Args:
            key: Its key.
            update: Its update; by default the last one that has it.

        Raises:
            UsageError: if there is none.
            StorageError: if it is damaged.
        """
        tables = [one for one in self._results if one.kind in ("table", "histogram")]
        found = [one for one in tables if one.key == key and update in (None, one.update)]
        if not found:
            updates = [one.update for one in tables if one.key == key]
            keys = sorted({one.key for one in tables})
            raise UsageError(
                f"the run has no table {key!r}{f' at update {update}' if updates else ''}."
                f"{'' if updates else did_you_mean(key, keys)}",
                hint=f"it has {', '.join(map(str, updates or keys)) or 'none'}",
            )
        return found[-1].table(self.run_dir)

    @cached_property
    def _results(self) -> list[Result]:
        return list(results_in(self.run_dir))

    @cached_property
    def final_metrics(self) -> dict[str, float]:
        """The last value of every metric key."""
        return final_metrics(self.paths)

    @cached_property
    def model(self) -> ModelBase:
        """The model with the weights of the newest sound checkpoint, in evaluation mode."""
        return self.model_at("latest")

    def model_at(self, checkpoint: str, ema: str | float | None = None) -> ModelBase:
        """Build the model with the weights of a checkpoint, in evaluation mode.

        Args:
            checkpoint: `latest`, `last`, `best_model.<metric>`, `E…_U…_S…`.
            ema: Take its averaged weights instead: the factor, 0.999, or id and factor, `ema/0.999`.

        Raises:
            CheckpointError: if there is no such checkpoint, it is damaged, or it holds only a part of the weights.
        """
        return self._loaded(checkpoint, ema)[1]

    def predict(
        self,
        inputs: Mapping[str, Any],
        *,
        checkpoint: str = "latest",
        ema: str | float | None = None,
        like: str | None = None,
        batch_size: int | None = None,
    ) -> dict[str, Any]:
        """Return the prediction of each field, in the units of the data.

        Args:
            inputs: Properties by name, in the units of the data: arrays, tensors or numbers; one sample, or a batch
                along the first dimension. Labels are not needed.
            checkpoint: As in `model_at`.
            ema: As in `model_at`.
            like: Key of the data set whose own transforms the inputs need; by default the first one beside `train`.
            batch_size: Samples in one forward pass; None for that of training.

        Returns:
            Tensors if an input is one, else arrays.

        Raises:
            DataError: if an input is missing, or has another shape than in training.
            CheckpointError: as `model_at`.
        """
        fields = self.predictor(checkpoint, ema, like)(inputs, batch_size=batch_size)
        if any(isinstance(value, Tensor) for value in inputs.values()):
            return dict(fields)
        return {field: values.numpy() for field, values in fields.items()}

    def predictor(
        self, checkpoint: str = "latest", ema: str | float | None = None, like: str | None = None
    ) -> Predictor:
        """Return what `predict` calls; it is built once."""
        key = (checkpoint, ema, like)
        if key not in self._predictors:
            found, model = self._loaded(checkpoint, ema)
            with preparation(self.loaded, device=self.device) as prepared:
                inputs = Inputs.of(prepared, self.paths, found.saved, like)
                self._predictors[key] = Predictor(model, inputs, self.spec, found.position)
        return self._predictors[key]

    def _loaded(self, checkpoint: str, ema: str | float | None) -> tuple[Checkpoint, ModelBase]:
        """Return a checkpoint, and the model with its weights or averages in evaluation mode."""
        names = CheckpointNames(self.paths.checkpoint_path)
        if ema is None:
            found, tensors = names.load_weights(checkpoint)
        else:
            found = names.find(checkpoint).averaged(str(ema))
            tensors = found.tensors()
        with preparation(self.loaded, device=self.device) as prepared:
            model = prepared.model()
        load_weights(model, tensors, found.path, hint="name a checkpoint of whole weights")
        return found, model.eval()


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
