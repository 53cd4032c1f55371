"""`noether eval`: the callbacks of a run on one of its checkpoints, with the averages in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from noether.checkpoint.manifest import WEIGHTS, Manifest
from noether.checkpoint.paths import PathProvider
from noether.checkpoint.state import callback_file
from noether.checkpoint.step_names import Checkpoint, StepNames
from noether.config.base import component_of
from noether.config.components import CallBackBaseConfig
from noether.core.callbacks.checkpoint.ema import EmaCallbackConfig
from noether.core.callbacks.periodic import PeriodicDataIteratorCallback
from noether.core.callbacks.tree import family
from noether.core.initializers.base import InitializerBase, InitializerConfig
from noether.core.models.base import ModelBase
from noether.core.models.weights import match_weights
from noether.core.protocols import RunningTrainer
from noether.runs.folder.run_folder import find_run
from noether.runs.prepare import preparation
from noether.runs.saved_spec import load_saved_spec
from noether.spec.ids import item_ids
from noether.spec.model import RunSpec
from noether.training.loop.restore import resumption_paths


def _with_averaged_variants(spec: RunSpec, manifest: Manifest) -> RunSpec:
    """Return a spec in which each EMA has the run's own evaluations among its children.

    An EMA whose averages the step does not hold is left out, rather than evaluated with other weights.

    Args:
        spec: The run's spec.
        manifest: What the step to evaluate holds.
    """
    callbacks = list(spec.trainer.callbacks or [])
    ids = item_ids([{"id": config.id, "kind": config.kind} for config in callbacks], "callback")
    evaluating = [config for config in callbacks if _goes_through_data(config)]
    kept = []
    for identifier, config in zip(ids, callbacks, strict=True):
        if isinstance(config, EmaCallbackConfig):
            files = [callback_file(identifier, str(factor)) for factor in config.target_factors]
            if not manifest.files.keys() >= set(files):
                continue
            children = list(config.eval_callbacks or [])
            # First, so that a key which both log means what it meant in training.
            children = [*_others(evaluating, children), *children]
            config = config.model_copy(update={"id": identifier, "eval_callbacks": children})
        kept.append(config)
    trainer = spec.trainer.model_copy(update={"callbacks": kept})
    return spec.model_copy(update={"trainer": trainer})


def _others(evaluating: Sequence[CallBackBaseConfig], children: Sequence[CallBackBaseConfig]) -> list[Any]:
    """Return those that do what no child does, without an id where a child has the same."""
    known = [_what_it_does(child) for child in children]
    taken = {child.id for child in children}
    others = [other for other in evaluating if _what_it_does(other) not in known]
    return [other.model_copy(update={"id": None}) if other.id in taken else other for other in others]


def _goes_through_data(config: CallBackBaseConfig) -> bool:
    target = component_of(config).target
    return isinstance(target, type) and issubclass(target, PeriodicDataIteratorCallback)


def _what_it_does(config: CallBackBaseConfig) -> dict[str, Any]:
    """Return the settings of a callback without when it does it, and under which id."""
    return config.model_dump(exclude={"id", "every_n_epochs", "every_n_updates", "every_n_samples"})


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
    loaded = load_saved_spec(paths, project=project, trusted=trusted)
    with preparation(loaded) as prepared:
        weights = StepNames(paths.checkpoint_path).load(checkpoint, _SavedWeights.read)
        spec = _with_averaged_variants(prepared.loaded.spec, weights.checkpoint.step.manifest)
        target = EvaluationPaths(paths, weights.name)
        _begin_anew(target.metrics_path)
        assembled = prepared.assemble(target, spec=spec)
        trainer = assembled.trainer
        trainer.initializer = weights  # not those of the spec: what the run began with may be gone by now
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
        position, file = self.checkpoint.step.manifest.iteration, self.checkpoint.weights
        return position if file == WEIGHTS else f"{position}.{Path(file).parent.name}={Path(file).stem}"

    def initialize(self, trainer: RunningTrainer, model: ModelBase) -> None:
        """Load everything that evaluation depends on.

        Raises:
            CheckpointError: It is for another model.
        """
        step = self.checkpoint.step
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
