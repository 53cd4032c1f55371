"""`noether eval`: calls what evaluates on the weights of a checkpoint, and on the averages that it holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from noether.checkpoint.manifest import WEIGHTS
from noether.checkpoint.names import Checkpoint, CheckpointNames
from noether.checkpoint.paths import PathProvider
from noether.core.callbacks.nested import family
from noether.core.initializers.base import InitializerBase, InitializerConfig
from noether.core.models.base import ModelBase
from noether.core.models.weights import match_weights
from noether.core.protocols import RunningTrainer
from noether.kernel.registry import use_registry
from noether.runs.assemble import assemble
from noether.runs.averaged_variants import with_averaged_variants
from noether.runs.configured import configured
from noether.runs.find_run import find_run
from noether.runs.process_state import device_of, process_state
from noether.runs.run_spec import load_run_spec
from noether.training.loop.restore import resumption_paths

FOLDER = "evaluations"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a checkpoint is worth.

    Attributes:
        run_dir: The run.
        checkpoint: Which of its checkpoints, as `E1_U50_S3200`, with `.ema=0.999` for averaged weights.
        file: Where the metrics are kept.
        metrics: What the callbacks logged.
    """

    run_dir: Path
    checkpoint: str
    file: Path
    metrics: Mapping[str, float]


class EvaluationPaths(PathProvider):
    """The paths of a run while one of its checkpoints is evaluated: what that writes has a folder of its own.

    Args:
        run: The paths of the run.
        name: Name of the evaluation.
    """

    def __init__(self, run: PathProvider, name: str) -> None:
        super().__init__(run.output_path, run.run_id)
        self.results_path = run.run_path / FOLDER / name

    @property
    def metrics_path(self) -> Path:
        """The metrics of the evaluation."""
        return self.results_path / "metrics.jsonl"

    @property
    def outputs_path(self) -> Path:
        """Files that callbacks write while they evaluate."""
        return self.results_path / "outputs"


def evaluate(
    run: str | Path,
    *,
    checkpoint: str = "latest",
    output: str | Path = "runs",
    trusted: Iterable[str] = (),
    project: Path | None = None,
) -> Evaluation:
    """Evaluate a checkpoint of a run with the callbacks of its spec.

    Args:
        run: The run's folder, or its id below `output`.
        checkpoint: `latest`, `last`, `best_model.<metric>`, `E…_U…_S…`.
        output: The folder that holds the runs.
        trusted: Packages that dotted kinds may import beside the usual ones.
        project: The folder of the code of one's own that the run uses; by default the project that one stands in.

    Raises:
        UsageError: There is no such run, or what its spec names is not installed any more.
        CheckpointError: There is no such checkpoint, or it is damaged.
    """
    paths = find_run(run, output)
    loaded = load_run_spec(paths, project=project, trusted=trusted)
    with use_registry(loaded.registry):
        plugins = configured(loaded.spec)
        weights = CheckpointNames(paths.checkpoint_path).load(checkpoint, _SavedWeights.read)
        spec = with_averaged_variants(loaded.spec, weights.checkpoint.saved.manifest)
        target = EvaluationPaths(paths, weights.name)
        _begin_anew(target.metrics_path)
        with process_state(spec):
            # What the run began with may be gone by now, and none of it would be left in the model.
            assembled = assemble(spec, target, device_of(spec.device), [], initialize=False)
            trainer = assembled.trainer
            trainer.plugins, trainer.run, trainer.initializer = plugins, assembled, weights
            with closing(trainer.log_writer):
                trainer.eval(assembled.model)
    return Evaluation(paths.run_path, weights.name, target.metrics_path, trainer.log_writer.final_metrics)


def _begin_anew(metrics: Path) -> None:
    """Make place for the metrics of this evaluation: those of an earlier one of the same weights would be the same."""
    metrics.parent.mkdir(parents=True, exist_ok=True)
    metrics.unlink(missing_ok=True)


class _SavedWeights(InitializerBase):
    """Puts the weights of a checkpoint in place, with what callbacks and transforms kept, but no optimizer.

    Args:
        checkpoint: Which one.
        tensors: Its weights.
    """

    continues_a_run: ClassVar[bool] = True

    def __init__(self, checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> None:
        super().__init__(InitializerConfig())
        self.checkpoint = checkpoint
        self.tensors = tensors

    @classmethod
    def read(cls, checkpoint: Checkpoint) -> _SavedWeights:
        """Read the weights that a name stands for."""
        return cls(checkpoint, checkpoint.tensors())

    @property
    def name(self) -> str:
        """The position of the step, with the file where it is not the live weights."""
        position, file = self.checkpoint.saved.manifest.iteration, self.checkpoint.weights
        return position if file == WEIGHTS else f"{position}.{Path(file).parent.name}={Path(file).stem}"

    def initialize(self, trainer: RunningTrainer, model: ModelBase) -> None:
        """Load everything that evaluation depends on.

        Raises:
            CheckpointError: It is for another model.
        """
        step = self.checkpoint.saved
        match = match_weights(model, self.tensors)
        match.require_complete(
            str(step.folder / self.checkpoint.weights), hint="evaluate a checkpoint of whole weights"
        )
        match.load_into(model)
        counter = trainer.update_counter
        counter.epoch, counter.update, counter.sample = step.manifest.epoch, step.manifest.update, step.manifest.sample
        trainer.data_container.load_state_dict(step.data())
        states = step.callbacks()
        paths = resumption_paths(step)
        for callback in family(trainer.callbacks):
            if callback.id in states:
                callback.load_state_dict(states[callback.id])
            callback.resume_from_checkpoint(paths, model)
