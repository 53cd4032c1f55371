"""`noether eval`: the callbacks of a run on one of its checkpoints, with the averages in it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from noether.checkpoint.durable import make_folders, remove_tree, storage_error
from noether.checkpoint.manifest import Manifest
from noether.checkpoint.paths import PathProvider
from noether.checkpoint.saved import Checkpoint, CheckpointNames
from noether.checkpoint.state import callback_file
from noether.config.base import component_of
from noether.config.components import CallBackBaseConfig, InitializerConfig, PeriodicDataIteratorCallbackConfig
from noether.core.callbacks.checkpoint.ema import EmaCallbackConfig
from noether.core.callbacks.default.online_loss import OnlineLossCallback
from noether.core.callbacks.default.reporters import TrainingStabilityCallback
from noether.core.callbacks.online.additional_outputs import TrackAdditionalOutputsCallback
from noether.core.callbacks.periodic import PeriodicDataIteratorCallback
from noether.core.callbacks.tree import family
from noether.core.initializers.weights import InitializerBase
from noether.core.models.base import ModelBase
from noether.core.models.weights import load_weights
from noether.core.protocols import RunningTrainer
from noether.data.container import DataContainer
from noether.data.dataset import InMemoryDataset
from noether.errors import UsageError
from noether.kernel.progress import EVERY
from noether.metrics.results import RESULTS, RESULTS_INDEX
from noether.metrics.values import NONSCALARS
from noether.runs.folder.run_folder import EVALUATIONS, find_run
from noether.runs.outcome import EXIT_CODE
from noether.runs.predict.files import read_samples
from noether.runs.predict.inputs import Inputs, as_batch
from noether.runs.prepare import Preparation, Run, preparation
from noether.runs.saved_spec import load_saved_spec
from noether.spec.fields import item_ids
from noether.spec.model import RunSpec
from noether.training.resume import resumption_paths
from noether.training.signals import StoppedBySignal
from noether.training.state import RunParts


def _with_averaged_variants(spec: RunSpec, manifest: Manifest) -> RunSpec:
    """Return a spec in which each `ema` callback has the evaluations of the run among its children.

    An `ema` callback whose averages are not in the checkpoint is left out, rather than evaluated with other weights.

    Args:
        spec: Spec of the run.
        manifest: Manifest of the checkpoint to evaluate.
    """
    callbacks = list(spec.trainer.callbacks or [])
    ids = item_ids([{"id": config.id, "kind": config.kind} for config in callbacks], "callback")
    evaluating = [config for config in callbacks if _goes_through_data(config)]
    kept = []
    for identifier, config in zip(ids, callbacks, strict=True):
        if isinstance(config, EmaCallbackConfig):
            files = [callback_file(identifier, str(factor)) for factor in config.target_factors]
            if not manifest.holds.issuperset(files):
                continue
            children = list(config.eval_callbacks or [])
            # First, so that a metric key which both log has the meaning that it had in training.
            children = [*_others(evaluating, children), *children]
            config = config.model_copy(update={"id": identifier, "eval_callbacks": children})
        kept.append(config)
    trainer = spec.trainer.model_copy(update={"callbacks": kept})
    return spec.model_copy(update={"trainer": trainer})


def _others(evaluating: Sequence[CallBackBaseConfig], children: Sequence[CallBackBaseConfig]) -> list[Any]:
    """Return the callbacks that repeat no child, without their id if a child has the same."""
    known = [_settings_of(child) for child in children]
    taken = {child.id for child in children}
    others = [other for other in evaluating if _settings_of(other) not in known]
    return [other.model_copy(update={"id": None}) if other.id in taken else other for other in others]


def _goes_through_data(config: CallBackBaseConfig) -> bool:
    target = component_of(config).target
    return isinstance(target, type) and issubclass(target, PeriodicDataIteratorCallback)


def _settings_of(config: CallBackBaseConfig) -> dict[str, Any]:
    """Return the settings of a callback without its id and interval."""
    return config.model_dump(exclude={"id", *EVERY})


# The samples of a file


def _labelled(path: Path, inputs: Inputs, spec: RunSpec) -> DataContainer:
    """Return the samples of a file as the only data set, with the labels that the targets need."""
    names = [*(spec.trainer.forward_properties or ()), *(spec.trainer.target_properties or ())]
    samples = read_samples(path, inputs.config, inputs.properties, inputs.needed_for(names), others=True)
    dataset: InMemoryDataset = samples.dataset
    if any(tensor.dtype != inputs.properties[name].dtype for name, tensor in dataset.properties.items()):
        batch, _ = as_batch(samples.tensors, inputs.properties)
        dataset = InMemoryDataset(inputs.rounded(batch))
    return inputs.data.over(inputs.key, dataset)


def _of_data_set(spec: RunSpec, key: str) -> RunSpec:
    """Return a spec that trains nothing, and whose callbacks are those that evaluate the data set `key`.

    Raises:
        UsageError: if there are none.
    """
    first = next(iter(spec.datasets))
    kept = _evaluating(spec.trainer.callbacks or [], key, first)
    if not kept:
        raise UsageError(
            f"no callback of the run evaluates the data set {key!r}: found none with dataset_key = {key!r}",
            hint="--like names another data set of the run",
        )
    limits = {"max_epochs": 0, "max_updates": None, "max_samples": None, "start_at_epoch": None}
    return spec.model_copy(update={"trainer": spec.trainer.model_copy(update={**limits, "callbacks": kept})})


def _evaluating(configs: Sequence[CallBackBaseConfig], key: str, first: str) -> list[CallBackBaseConfig]:
    """Return the callbacks, and the averages with callbacks, that go through the data set `key`."""
    kept: list[CallBackBaseConfig] = []
    for config in configs:
        if isinstance(config, EmaCallbackConfig):
            children = _evaluating(config.eval_callbacks or [], key, first)
            kept += [config.model_copy(update={"eval_callbacks": children})] if children else []
        elif isinstance(config, PeriodicDataIteratorCallbackConfig) and (config.dataset_key or first) == key:
            kept.append(config.model_copy(update={"dataset_key": key}))
    return kept


_FOLLOW_TRAINING = (OnlineLossCallback, TrackAdditionalOutputsCallback, TrainingStabilityCallback)
"""Their state is that of an unfinished interval of training, which is no metric of an evaluation."""
_LOG = logging.getLogger("noether.run")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics of one checkpoint.

    Attributes:
        run_dir: The run folder.
        checkpoint: Position of the checkpoint, `E1_U50_S3200`, with `.ema=0.999` for averaged weights.
        file: File with the metrics.
        metrics: Values that the callbacks logged, by metric key.
        data_key: Data set in whose place the samples of a file were evaluated; None for the data of the run.
    """

    run_dir: Path
    checkpoint: str
    file: Path
    metrics: Mapping[str, float]
    data_key: str | None = None


class EvaluationPaths(PathProvider):
    """Paths of a run during an evaluation, which writes to a folder of its own.

    Args:
        run: Paths of the run.
        name: Name of the evaluation.
    """

    def __init__(self, run: PathProvider, name: str) -> None:
        super().__init__(run.output_path, run.run_id)
        self.results_path = run.run_path / EVALUATIONS / name

    @property
    def metrics_path(self) -> Path:
        """File with the metrics of the evaluation."""
        return self.results_path / "metrics.jsonl"

    @property
    def outputs_path(self) -> Path:
        """Folder of the files that callbacks write during the evaluation."""
        return self.results_path / "outputs"


def evaluate(
    run: str | Path,
    *,
    checkpoint: str = "latest",
    data: Path | None = None,
    like: str | None = None,
    output: str | Path = "runs",
    trusted: Iterable[str] = (),
    project: Path | None = None,
) -> Evaluation:
    """Evaluate a checkpoint of a run with the callbacks of its spec.

    Args:
        run: Folder of the run, or its id below `output`.
        checkpoint: `latest`, `last`, `best_model.<metric>`, `E…_U…_S…`.
        data: File with labelled samples to evaluate in place of a data set of the run.
        like: Key of that data set; by default the first one that the run does not train on.
        output: Folder that holds the runs.
        trusted: Packages that dotted kinds may import beside the usual ones.
        project: Project folder with the code that the spec names; by default the project of the working folder.

    Raises:
        UsageError: if there is no such run, or a component of its spec is no longer installed.
        DataError: if the data file cannot be read, or lacks columns.
        CheckpointError: if there is no such checkpoint, or it is damaged.
        SystemExit: if a signal stops it, with 128 plus the signal's number; its metrics are incomplete then.
    """
    if like is not None and data is None:
        raise UsageError("--like without --data", hint="name the file with --data")
    paths = find_run(run, output)
    loaded = load_saved_spec(paths, project=project, trusted=trusted)
    if (limit := loaded.spec.loader.limit_batches) is not None:
        _LOG.warning("the run has limit_batches = %d, so its passes have at most %d batches here as well", limit, limit)
    with preparation(loaded) as prepared:
        weights = _SavedWeights(*CheckpointNames(paths.checkpoint_path).load_weights(checkpoint))
        saved, name = weights.checkpoint.saved, weights.checkpoint.position
        spec, samples = _with_averaged_variants(prepared.loaded.spec, saved.manifest), None
        if data is not None:
            inputs = Inputs.of(prepared, paths, saved, like)
            spec, samples = _of_data_set(spec, inputs.key), _labelled(data, inputs, spec)
            name = f"{name}.data={data.stem}"
        target = EvaluationPaths(paths, name)
        _begin_anew(target)
        metrics = _metrics(prepared, prepared.assemble(target, spec=spec, data=samples), weights)
    key = None if samples is None else samples.keys()[0]
    return Evaluation(paths.run_path, weights.checkpoint.position, target.metrics_path, metrics, key)


def _metrics(prepared: Preparation, evaluated: Run, weights: _SavedWeights) -> Mapping[str, float]:
    """Evaluate, and return the metrics."""
    trainer = evaluated.trainer
    with closing(trainer.log_writer):
        # Not the initializers of the spec: the weights that the run began with may be gone.
        try:
            trainer.eval(evaluated.model, RunParts(evaluated, prepared.plugins, weights))
        except StoppedBySignal as stop:  # by a second signal, at once
            raise SystemExit(EXIT_CODE + stop.signal_number) from None
    if trainer.stopped_by is not None:
        _LOG.warning("the evaluation was stopped by %s; its metrics are incomplete", trainer.stop_reason)
        raise SystemExit(EXIT_CODE + trainer.stopped_by)
    return trainer.log_writer.final_metrics


def _begin_anew(target: EvaluationPaths) -> None:
    """Remove the metrics and results of an earlier evaluation of the same weights.

    Raises:
        StorageError: if the disk refuses, or the folder of evaluations is a link.
    """
    try:
        make_folders(target.results_path, inside=target.run_path)
        for name in (target.metrics_path.name, NONSCALARS, RESULTS_INDEX, RESULTS):
            with suppress(FileNotFoundError):
                remove_tree(target.results_path / name)
    except OSError as error:
        raise storage_error(error, target.metrics_path) from error


class _SavedWeights(InitializerBase):
    """Load the weights of a checkpoint and the states of callbacks and transforms, without an optimizer.

    Args:
        checkpoint: The checkpoint.
        tensors: Its weights.
    """

    continues_a_run: ClassVar[bool] = True

    def __init__(self, checkpoint: Checkpoint, tensors: dict[str, Any]) -> None:
        super().__init__(InitializerConfig())
        self.checkpoint = checkpoint
        self.tensors = tensors

    def initialize(self, trainer: RunningTrainer, model: ModelBase) -> None:
        """Load everything on which evaluation depends.

        Raises:
            CheckpointError: if the weights are those of another model.
        """
        saved = self.checkpoint.saved
        load_weights(model, self.tensors, self.checkpoint.path, hint="evaluate a checkpoint of whole weights")
        trainer.stand_at(saved.manifest.epoch, saved.manifest.update, saved.manifest.sample)
        trainer.data_container.load_state_dict(saved.data())
        states = saved.callbacks()
        paths = resumption_paths(saved)
        for callback in family(trainer.callbacks):
            if callback.id in states and not isinstance(callback, _FOLLOW_TRAINING):
                callback.load_state_dict(states[callback.id])
            callback.resume_from_checkpoint(paths, model)
