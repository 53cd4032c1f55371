"""The composition root: the only place that builds all parts of a run and puts them together."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from noether.core.initializers.base import InitializerBase
from noether.core.models.base import ModelBase
from noether.core.models.build import build_model, infer_sizes
from noether.core.providers.path import PathProvider
from noether.core.schemas.construction import construction_of
from noether.core.schemas.lib import component_of
from noether.core.trackers.base import BaseTracker
from noether.core.trackers.noop import NoopTracker
from noether.core.writers.save_policy import SavePolicy
from noether.data.build import build_data
from noether.data.container import DataContainer
from noether.data.whole import first_sample
from noether.errors import SpecError
from noether.spec.model import RunSpec
from noether.spec.resolve import resolved_toml
from noether.training.trainers.base import BaseTrainer

_TARGET = "_target"


@dataclass(frozen=True, slots=True)
class Run:
    """The parts of a run, ready to train; also what run hooks are given.

    Attributes:
        run_id: Name of the run.
        run_dir: Its folder.
        spec: The spec with the sizes that the data has decided.
        resolved: Its text.
        data: All data sets.
        model: On its device.
        trainer: With its writers.
        initializer: The `[initializer]` that continues a run, to be passed on to the trainer; None without one.
    """

    run_id: str
    run_dir: Path
    spec: RunSpec
    resolved: str
    data: DataContainer
    model: ModelBase
    trainer: BaseTrainer
    initializer: InitializerBase | None = None


def assemble(
    spec: RunSpec,
    paths: PathProvider,
    device: torch.device,
    trackers: list[BaseTracker],
    *,
    initialize: bool = True,
) -> Run:
    """Build data, model and trainer of a run.

    Args:
        spec: A valid spec.
        paths: Where the run keeps its files.
        device: Where it trains.
        trackers: As built from the spec.
        initialize: Whether initializers have a say; a run that goes on has its own state.

    Raises:
        UsageError: Something in the spec cannot be built.
    """
    data = build_data(spec.datasets, spec.transforms, spec.loader, seed=spec.seed)
    spec = _made_explicit(spec, data, device)
    model = build_model(spec.model, device)
    resolved = resolved_toml(spec)
    model.check_inputs(spec.trainer.forward_properties or [])
    with construction_of(spec.trainer):
        trainer: BaseTrainer = component_of(spec.trainer).target(
            spec.trainer,
            data_container=data,
            device=device,
            tracker=trackers[0] if trackers else NoopTracker(),
            path_provider=paths,
        )
    trainer.checkpoint_writer.configure(
        keep_last=spec.checkpoints.keep_last,
        keep_every=spec.checkpoints.keep_every,
        asynchronous=spec.checkpoints.asynchronous,
        policy=SavePolicy(spec.checkpoints.on_save_error),
        spec_sha256=hashlib.sha256(resolved.encode()).hexdigest(),
    )
    initializer = _initialize(spec, trainer, model) if initialize else None
    return Run(paths.run_id, paths.run_path, spec, resolved, data, model, trainer, initializer)


def _initialize(spec: RunSpec, trainer: BaseTrainer, model: ModelBase) -> InitializerBase | None:
    """Load the weights that `[initializer]` names; return one that continues a run, for the trainer to call later."""
    if spec.initializer is None:
        return None
    with construction_of(spec.initializer):
        initializer: InitializerBase = component_of(spec.initializer).target(spec.initializer)
    if not initializer.continues_a_run:
        initializer.initialize(trainer, model)
        return None
    if trainer.initializer is not None:
        raise SpecError(
            f"[initializer] continues a run ('{spec.initializer.kind}'), and trainer.initializer "
            f"('{spec.trainer.initializer.kind}') would change what it continues with",
            hint="remove one of them",
        )
    return initializer


def build_trackers(spec: RunSpec) -> list[BaseTracker]:
    """Construct the trackers of a spec; nothing is opened yet."""
    trackers = []
    for config in spec.trackers or []:
        with construction_of(config):
            trackers.append(component_of(config).target(config))
    return trackers


def _made_explicit(spec: RunSpec, data: DataContainer, device: torch.device) -> RunSpec:
    """Fill in what data and machine decide: the model's sizes, the device, the number of threads."""
    sample = _first_sample(data)
    inputs = _select(sample, spec.trainer.forward_properties or [], "forward_properties")
    targets = _select(sample, spec.trainer.target_properties or [], "target_properties")
    fields = {name.removesuffix(_TARGET): value for name, value in targets.items()}
    model = infer_sizes(spec.model, inputs, fields)
    threads = spec.threads or torch.get_num_threads()
    return spec.model_copy(update={"model": model, "device": str(device), "threads": threads})


def _first_sample(data: DataContainer) -> dict[str, Tensor]:
    keys = data.keys()
    key = "train" if "train" in keys else None
    return first_sample(data.get_dataset(key), seed=data.seed)


def _select(sample: dict[str, Tensor], names: list[str], where: str) -> dict[str, Tensor]:
    missing = [name for name in names if name not in sample]
    if missing:
        raise SpecError(
            f"trainer.{where} names {missing}, but a sample has {sorted(sample)}",
            hint="name properties that the data set has",
        )
    return {name: sample[name] for name in names}
