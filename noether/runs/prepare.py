"""The prologue of every run: process state, run plugins, and all parts put together in one order.

Model, dry pass for lazy modules, data parallelism, weights, optimizer, callbacks, hooks. Nothing else builds a run:
`run`, `resume`, `eval`, `predict`, `plan`, `check --deep`, `verify-resume` and `checkpoint export` all come through
here.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pydantic import BaseModel
from torch import Tensor

from noether.checkpoint.paths import PathProvider
from noether.checkpoint.save import SavePolicy
from noether.config.base import building_with_seed, construct
from noether.core.initializers.weights import InitializerBase
from noether.core.models.agreement import lazy_layers, require_sizes
from noether.core.models.base import ModelBase, evaluating
from noether.core.models.build import build_model, infer_sizes, model_without_values
from noether.core.trackers import NoopTracker
from noether.data.build import build_data
from noether.data.container import DataContainer
from noether.data.loader import refuse_import_by_worker
from noether.errors import SpecError, error_text, placed
from noether.kernel.dispatch import compile_dispatch
from noether.kernel.importing import explained
from noether.kernel.names import TARGET
from noether.kernel.participant import Participant, load_plugins
from noether.kernel.registry import use_registry
from noether.metrics.tracker import BaseTracker
from noether.runs.process_state import ThreadChoice, choose_threads, device_of, process_state, usable_cores
from noether.spec.errors.problem import InvalidSpecError, Problem
from noether.spec.fields import configs_in, paths_unset
from noether.spec.load import LoadedSpec, load_spec
from noether.spec.model import RunSpec, resolved_tables, resolved_toml
from noether.training.parallel import parallel_of
from noether.training.state import RunParts
from noether.training.trainers.base import BaseTrainer

_CALLBACKS = logging.getLogger("noether.callbacks")


@dataclass(frozen=True, slots=True)
class Run:
    """The parts of a run; run hooks get it as `run`.

    Attributes:
        run_id: Name of the run.
        run_dir: Folder of the run.
        spec: The spec, with the sizes that the data decide.
        resolved: Text of that spec.
        data: All data sets.
        model: The model, on its device.
        trainer: The trainer, with its writers.
        threads: The threads that it computes with, and the reason for their number.
    """

    run_id: str
    run_dir: Path
    spec: RunSpec
    resolved: str
    data: DataContainer
    model: ModelBase
    trainer: BaseTrainer
    threads: ThreadChoice


@dataclass(frozen=True, slots=True)
class Preparation:
    """A run about to be built, while its registry and its process state are active; see `preparation`.

    Attributes:
        loaded: The spec as the run plugins have configured it.
        plugins: The run plugins, in the order of their use.
        device: Device of the run.
        cores: Number of cores that the process may use, and the limit in words; see `usable_cores`.
    """

    loaded: LoadedSpec
    plugins: list[Participant]
    device: torch.device
    cores: tuple[int, str]

    def trackers(self) -> list[BaseTracker]:
        """Construct the trackers of the spec; none is opened yet."""
        return [construct(config) for config in self.loaded.spec.trackers or []]

    def fitted_transforms(self, state: Mapping[str, Tensor]) -> DataContainer:
        """Build the transforms of the data alone, with their saved state; the container has no data sets."""
        spec = self.loaded.spec
        data = build_data(spec.datasets, spec.transforms, spec.loader, seed=spec.seed, samples={})
        data.load_state_dict(state)
        return data

    def data(self) -> DataContainer:
        """Build the data alone."""
        spec = self.loaded.spec
        return build_data(spec.datasets, spec.transforms, spec.loader, seed=spec.seed)

    def parts(
        self, spec: RunSpec | None = None, data: DataContainer | None = None
    ) -> tuple[RunSpec, DataContainer, ModelBase, ThreadChoice]:
        """Build data and model with one thread; return the spec with their sizes, both, and the threads from now on.

        Args:
            spec: Spec to build instead of that of the preparation.
            data: Data instead of those of the spec.

        Raises:
            UsageError: if one of them cannot be built.
        """
        spec = spec or self.loaded.spec
        data = data or build_data(spec.datasets, spec.transforms, spec.loader, seed=spec.seed)
        sample = data.first_sample()
        spec = _made_explicit(spec, sample, self.device)
        model = built_model(spec, sample, self.device)
        if spec.trainer.parallel == "fsdp2":  # a rank that has built it without values has drawn less than rank 0
            torch.set_rng_state(parallel_of().share(torch.get_rng_state()))
        threads = choose_threads(spec, model, sample, self.device, self.cores)
        torch.set_num_threads(threads.number)
        return spec.model_copy(update={"threads": threads.number}), data, model, threads

    def model(self) -> ModelBase:
        """Build the model alone, without data if the spec holds all of its sizes."""
        model = build_model(self.loaded.spec.model, self.device)
        return self.parts()[2] if lazy_layers(model) else model

    def assemble(
        self,
        paths: PathProvider,
        *,
        trackers: Sequence[BaseTracker] = (),
        spec: RunSpec | None = None,
        data: DataContainer | None = None,
    ) -> Run:
        """Build data, model and trainer; `ready` does the rest.

        Args:
            paths: Paths of the run.
            trackers: Trackers of the run.
            spec: Spec to build instead of that of the preparation.
            data: Data instead of those of the spec.

        Raises:
            UsageError: if something in the spec cannot be built.
        """
        spec, data, model, threads = self.parts(spec, data)
        resolved = resolved_toml(spec)
        model.check_inputs(spec.trainer.forward_properties or [])
        with placed("trainer"):
            trainer: BaseTrainer = construct(
                spec.trainer,
                data_container=data,
                device=self.device,
                tracker=trackers[0] if trackers else NoopTracker(),
                path_provider=paths,
            )
        trainer.checkpoint_writer.configure(
            keep_last=spec.checkpoints.keep_last,
            keep_every=spec.checkpoints.keep_every,
            asynchronous=spec.checkpoints.asynchronous,
            policy=SavePolicy(spec.checkpoints.on_save_error),
            spec=resolved.encode(),
        )
        return Run(paths.run_id, paths.run_path, spec, resolved, data, model, trainer, threads)

    def ready(self, run: Run, *, state: InitializerBase | None = None) -> None:
        """Load weights, then build optimizer, callbacks and hooks.

        Args:
            run: The run, as `assemble` returned it.
            state: Saved state of the run itself; it takes the place of the spec's initializers.

        Raises:
            UsageError: if an initializer, an optimizer, a callback or a hook does not fit.
            CheckpointError: if the state does not fit the run.
        """
        initializer = state or _initializer(run.spec, run.trainer)
        run.trainer.prepare(run.model, RunParts(run, self.plugins, initializer))


@contextmanager
def preparation(
    loaded: LoadedSpec,
    plugins: Iterable[str] = (),
    *,
    extras: Iterable[Participant] = (),
    device: str | None = None,
) -> Iterator[Preparation]:
    """Load the run plugins, let them configure the spec, and enter the process state of the run.

    Args:
        loaded: A valid spec; it is not changed.
        plugins: Run plugins beside those that the spec uses.
        extras: Further participants in the hooks, called last.
        device: Device instead of that of the spec.

    Raises:
        PluginError: if a plugin is not installed, or one of its hooks cannot work.
        SpecError: if a plugin leaves the spec invalid, or its device is missing.
    """
    parallel_of()
    refuse_import_by_worker()
    with use_registry(loaded.registry):
        loaded, participants = _configured(loaded, plugins)
        place, cores = device_of(device or loaded.spec.device), usable_cores(ranks=parallel_of().local_world)
        with process_state(loaded.spec, place), building_with_seed(loaded.spec.seed):
            yield Preparation(loaded, [*participants, *extras], place, cores)


@contextmanager
def rehearsal(
    loaded: LoadedSpec,
    plugins: Iterable[str] = (),
    *,
    extras: Iterable[Participant] = (),
    data: DataContainer | None = None,
) -> Iterator[Run]:
    """Build a whole run except its trackers, ready to train, in a temporary folder; silence its callbacks.

    Args:
        loaded: A valid spec.
        plugins: Run plugins beside those that the spec uses.
        extras: Further participants in the hooks, called last.
        data: Data instead of those of the spec.

    Raises:
        UsageError: if something in the spec cannot be built.
    """
    with (
        _quiet_callbacks(),
        preparation(loaded, plugins, extras=extras) as prepared,
        TemporaryDirectory(prefix="noether-") as folder,  # after the imports, in which Ctrl-C ends the process at once
    ):
        spec = prepared.loaded.spec
        paths = PathProvider(spec.output, spec.name)  # an initializer may take weights of another run there
        paths.run_path = paths.home = Path(folder)
        run = prepared.assemble(paths, data=data)
        prepared.ready(run)
        try:
            yield run
        finally:
            run.trainer.log_writer.close()


@contextmanager
def _quiet_callbacks() -> Iterator[None]:
    """Silence the loggers of callbacks: they report on a training that does not take place."""
    silence, propagate = logging.NullHandler(), _CALLBACKS.propagate
    _CALLBACKS.addHandler(silence)
    _CALLBACKS.propagate = False
    try:
        yield
    finally:
        _CALLBACKS.propagate = propagate
        _CALLBACKS.removeHandler(silence)


# Run plugins


def _configured(loaded: LoadedSpec, names: Iterable[str]) -> tuple[LoadedSpec, list[Participant]]:
    """Load the run plugins and return the spec as they configure it, checked again."""
    spec = loaded.spec.model_copy(deep=True)
    spec.plugins.use = used = list(dict.fromkeys([*spec.plugins.use, *names]))
    participants = load_plugins(used)
    new = [one for one in participants if one.id not in spec._configured_by]  # a resumed run is configured already
    order = _configure(spec, new)
    if order and (problems := _problems_of(spec, loaded, used)):
        culprit = _first_to_break(loaded, used, new, order)
        raise InvalidSpecError(problems, origin=f"the spec after configure_spec of run plugin '{culprit}'")
    spec._configured_by += order
    return replace(loaded, spec=spec), participants


def _first_to_break(loaded: LoadedSpec, used: list[str], new: list[Participant], order: list[str]) -> str:
    """Return the id of the run plugin after which the spec is no longer valid; the last one if that cannot be found."""
    for count in range(1, len(order)):
        again = loaded.spec.model_copy(deep=True)
        again.plugins.use = list(used)
        try:
            _configure(again, [one for one in new if one.id in order[:count]])
        except Exception:  # a plugin that cannot be called again; the problems that were found are reported
            break
        if _problems_of(again, loaded, used):
            return order[count - 1]
    return order[-1]


def _configure(spec: RunSpec, participants: Sequence[Participant]) -> list[str]:
    """Let run plugins configure a spec in place; return the ids of those that do, in their order."""
    dispatch = compile_dispatch(participants)
    if dispatch.configure_spec is not None:
        explained("the spec", partial(dispatch.configure_spec, spec=spec), "configure")
    return list(dict.fromkeys(dispatch.order("configure_spec")))


def _problems_of(spec: RunSpec, loaded: LoadedSpec, used: Sequence[str]) -> list[Problem]:
    """Return the problems that a file with this spec would have, and values that no file could hold."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydantic warns of values of a wrong type, which are reported below
            tables = resolved_tables(spec)
        again = load_spec(tables, registry=loaded.registry, plugins=used, project=loaded.project_folder)
    except InvalidSpecError as error:
        return [replace(problem, places=()) for problem in error.problems]
    except (SpecError, ValueError, TypeError, AttributeError) as error:
        return [Problem("wrong-value", (), str(error))]
    built = {path for path, _ in configs_in(spec)}
    tables_only = [path for path, _ in configs_in(again.spec) if path not in built]
    tables_only += [(name,) for name in spec.plugin_tables if not isinstance(getattr(spec, name), BaseModel)]
    unset = "found None, which a spec does not have, expected a value"
    return [
        *(Problem("wrong-type", path, "found a plain table, expected a config object") for path in tables_only),
        *(Problem("wrong-type", path, unset) for path in paths_unset(spec)),
    ]


# Parts


def built_model(spec: RunSpec, sample: Mapping[str, Tensor], device: torch.device) -> ModelBase:
    """Build the model of a spec that has all sizes of the data; lazy modules get theirs by a pass of one sample."""
    place = parallel_of().builds_on(spec.trainer, device)
    if place.type == "meta" and (skeleton := model_without_values(spec.model)) is not None:
        return skeleton
    model = build_model(spec.model, device if place.type == "meta" else place)
    if not (layers := lazy_layers(model)):
        return model
    sampled = {name: sample[name] for name in spec.trainer.forward_properties or []}
    inputs = {name: x.unsqueeze(0).to(device) if isinstance(x, Tensor) else [x] for name, x in sampled.items()}
    try:
        with torch.no_grad(), evaluating(model):
            model(**inputs)
    except Exception as error:
        raise SpecError(
            f"layers of the model have no sizes yet, and a forward pass of one sample, which would give them, failed: "
            f"found {', '.join(layers)}: {error_text(error)}",
            hint="give the sizes to their constructors, or let forward accept a batch of one sample",
        ) from error
    require_sizes(model)
    return model


def _initializer(spec: RunSpec, trainer: BaseTrainer) -> InitializerBase | None:
    """Construct the initializer that `[initializer]` names; the trainer calls it."""
    if spec.initializer is None:
        return None
    with placed("initializer"):
        initializer: InitializerBase = construct(spec.initializer)
    if initializer.continues_a_run and trainer.initializer is not None:
        raise SpecError(
            f"[initializer] continues a run ('{spec.initializer.kind}'), and trainer.initializer "
            f"('{spec.trainer.initializer.kind}') would change the state with which it continues",
            hint="remove one of them",
        )
    return initializer


def _made_explicit(spec: RunSpec, sample: dict[str, Tensor], device: torch.device) -> RunSpec:
    """Fill in the settings that data and machine decide: sizes of the model, device."""
    inputs = _select(sample, spec.trainer.forward_properties or [], "forward_properties")
    targets = _select(sample, spec.trainer.target_properties or [], "target_properties")
    fields = {name.removesuffix(TARGET): value for name, value in targets.items()}
    with placed("model"):
        model = infer_sizes(spec.model, inputs, fields)
    name = device.type if parallel_of().world > 1 else str(device)  # each rank has another index
    return spec.model_copy(update={"model": model, "device": name})


def _select(sample: dict[str, Tensor], names: list[str], where: str) -> dict[str, Tensor]:
    missing = [name for name in names if name not in sample]
    if missing:
        with placed("trainer", where):
            raise SpecError(
                f"unknown properties in trainer.{where}: found {missing}, expected properties of a sample: "
                f"{sorted(sample)}",
                hint="list properties of the data set",
            )
    return {name: sample[name] for name in names}
