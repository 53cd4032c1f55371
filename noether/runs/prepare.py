"""The prologue of every run: process state, run plugins, and all parts put together in one order."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

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
from noether.data.randomness import preserved_rng, seed_sample
from noether.data.whole import first_sample
from noether.errors import SpecError
from noether.kernel.dispatch import compile_dispatch
from noether.kernel.participant import Participant
from noether.kernel.plugins import load_plugins
from noether.kernel.registry import use_registry
from noether.spec.load import LoadedSpec
from noether.spec.model import RunSpec
from noether.spec.resolve import resolved_toml
from noether.training.trainers.base import BaseTrainer

_CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def device_of(name: str) -> torch.device:
    """Return the device that a spec names; `auto` is the best that there is.

    Raises:
        SpecError: There is no such device.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    if not available[name.partition(":")[0]]:
        present = ", ".join(kind for kind, there in available.items() if there)
        raise SpecError(f"device = {name!r}: there is no such device here; found {present}", hint='use device = "auto"')
    return torch.device(name)


@contextmanager
def process_state(spec: RunSpec) -> Iterator[None]:
    """Seed all generators and apply the spec's process-wide settings; leave everything as it was found."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    deterministic = torch.are_deterministic_algorithms_enabled()
    workspace = os.environ.get(_CUBLAS_WORKSPACE)
    with preserved_rng():
        try:
            seed_sample(spec.seed)
            torch.manual_seed(spec.seed)  # the accelerators too
            if spec.threads is not None:
                torch.set_num_threads(spec.threads)
            if spec.matmul_precision is not None:
                torch.set_float32_matmul_precision(spec.matmul_precision)
            if spec.deterministic:
                os.environ.setdefault(_CUBLAS_WORKSPACE, ":4096:8")  # cuBLAS is only deterministic with it
                torch.use_deterministic_algorithms(True)
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_float32_matmul_precision(precision)
            torch.use_deterministic_algorithms(deterministic)
            if workspace is None:
                os.environ.pop(_CUBLAS_WORKSPACE, None)


def configured(spec: RunSpec, plugins: Iterable[str] = ()) -> list[Participant]:
    """Load the run plugins, let them configure the spec, and return them.

    Args:
        spec: A valid spec; `plugins` are added to those that it uses.
        plugins: Names of further run plugins.

    Raises:
        PluginError: A plugin is not installed, or one of its hooks cannot work.
    """
    spec.plugins.use = list(dict.fromkeys([*spec.plugins.use, *plugins]))
    participants = load_plugins(spec.plugins.use)
    if (configure := compile_dispatch(participants).configure_spec) is not None:
        configure(spec=spec)
    return participants


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
    """

    run_id: str
    run_dir: Path
    spec: RunSpec
    resolved: str
    data: DataContainer
    model: ModelBase
    trainer: BaseTrainer


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
    trainer.checkpoint_writer.keep_last = spec.checkpoints.keep_last
    trainer.checkpoint_writer.keep_every = spec.checkpoints.keep_every
    trainer.checkpoint_writer.asynchronous = spec.checkpoints.asynchronous
    trainer.checkpoint_writer.policy = SavePolicy(spec.checkpoints.on_save_error)
    trainer.checkpoint_writer.spec_sha256 = hashlib.sha256(resolved.encode()).hexdigest()
    if initialize:
        _initialize(spec, trainer, model)
    else:
        trainer.initializer = None
    return Run(paths.run_id, paths.run_path, spec, resolved, data, model, trainer)


def _initialize(spec: RunSpec, trainer: BaseTrainer, model: ModelBase) -> None:
    """Load the weights that `[initializer]` names; one that continues a run is left to the trainer for later."""
    if spec.initializer is None:
        return
    with construction_of(spec.initializer):
        initializer: InitializerBase = component_of(spec.initializer).target(spec.initializer)
    if not initializer.continues_a_run:
        initializer.initialize(trainer, model)
    elif trainer.initializer is None:
        trainer.initializer = initializer
    else:
        raise SpecError(
            f"[initializer] continues a run ('{spec.initializer.kind}'), and trainer.initializer "
            f"('{spec.trainer.initializer.kind}') would change what it continues with",
            hint="remove one of them",
        )


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


_CALLBACKS = logging.getLogger("noether.callbacks")


@contextmanager
def _quiet_callbacks() -> Iterator[None]:
    """Let nobody hear what callbacks log: it is about a training that does not take place."""
    silence, propagate = logging.NullHandler(), _CALLBACKS.propagate
    _CALLBACKS.addHandler(silence)
    _CALLBACKS.propagate = False
    try:
        yield
    finally:
        _CALLBACKS.propagate = propagate
        _CALLBACKS.removeHandler(silence)


@contextmanager
def rehearsal(loaded: LoadedSpec, plugins: Iterable[str] = (), *, extras: Iterable[Participant] = ()) -> Iterator[Run]:
    """Build everything of a run but its trackers, ready to train, its folder a temporary one.

    What its callbacks log is not heard.

    Args:
        loaded: A valid spec.
        plugins: Run plugins beside those that the spec uses.
        extras: Further participants in the hooks, called last.

    Raises:
        UsageError: Something in the spec cannot be built.
    """
    spec = loaded.spec.model_copy(deep=True)  # a plugin may configure it, and the run has it still before it
    with use_registry(loaded.registry), TemporaryDirectory(prefix="noether-") as folder, _quiet_callbacks():
        participants = configured(spec, plugins)
        with process_state(spec):
            paths = PathProvider(spec.output, spec.name)  # an initializer may take weights of another run there
            paths.run_path = Path(folder)
            run = assemble(spec, paths, device_of(spec.device), trackers=[])
            run.trainer.plugins, run.trainer.run = [*participants, *extras], run
            run.trainer.prepare(run.model)
            try:
                yield run
            finally:
                run.trainer.log_writer.close()
