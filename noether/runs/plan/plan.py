"""`noether plan`: build a run and report what it would do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from noether.checkpoint.manifest import SPEC
from noether.checkpoint.save import SaveRequest
from noether.checkpoint.state import encode_checkpoint
from noether.core.callbacks.periodic import iterator_callbacks
from noether.core.models.base import ModelBase
from noether.core.models.recompute import recomputed
from noether.data.dataset import length_of
from noether.data.staging import require_resident
from noether.kernel.entries import PLUGIN
from noether.kernel.registry import active_registry
from noether.runs.plan.plan_callbacks import (
    PlannedCallback,
    PlannedPass,
    naming_callbacks,
    other_hooks,
    planned_callbacks,
    planned_passes,
    saving_updates,
)
from noether.runs.plan.plan_model import PlannedModule, plan_model
from noether.runs.prepare import Run, rehearsal
from noether.spec.load import LoadedSpec
from noether.spec.model import resolved_tables
from noether.training.forms import choose


@torch.no_grad()
def checkpoint_files(run: Run) -> tuple[dict[str, int], bool]:
    """Return the bytes of each file of a whole checkpoint, and True if they include the state of the optimizer.

    The model is that of a rehearsal: it makes an update with gradients of zero, because optimizers have no state before
    their first.
    """
    complete = _has_state_after_an_update(run.model)
    request = SaveRequest()
    request.add_parts(weights=True, optimizer=True, model_names=None, frozen_weights=True)
    files, _ = encode_checkpoint(run.trainer.capture_state(run.model), request)
    files[SPEC] = run.resolved.encode()
    return {name: len(data) for name, data in sorted(files.items())}, complete


def _has_state_after_an_update(model: ModelBase) -> bool:
    """Let every optimizer create its state; return True if all of them could."""
    for optimizer in model.optimizers().values():
        for parameter in optimizer.parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.begin_training()
        closure: list[Any] = [lambda: torch.zeros(())] if optimizer.traits.takes_closure else []
        try:
            optimizer.torch_optimizer.step(*closure)
        except Exception:  # such as one that takes sparse gradients only
            return False
        finally:
            optimizer.zero_grad()
    return True


@dataclass(frozen=True, slots=True)
class PlannedCheckpoints:
    """The checkpoints of a run.

    Attributes:
        updates: Updates after which they are committed.
        kept: Those that exist at the end.
        files: Bytes of each file, as far as they are known before the first update.
        optimizer_known: True if they include the state of the optimizer.
        naming: Callbacks that commit further ones, which stay as long as they have a name.
    """

    updates: list[int]
    kept: list[int]
    files: dict[str, int]
    optimizer_known: bool
    naming: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of one checkpoint."""
        return sum(self.files.values())


@dataclass(frozen=True, slots=True)
class Plan:
    """The updates, callbacks, evaluations and checkpoints of a run.

    Attributes:
        name: Name of the run.
        device: Device of the run.
        threads: CPU threads within one operation.
        threads_reason: Reason for their number.
        residence: Place of the data sets, in words.
        datasets: Samples of each data set.
        parameters: Parameters of the model.
        trainable: Parameters that are trained.
        recomputed: Modules whose forward pass runs again in the backward pass.
        loss: Values that the loss is a mean of, in words.
        updates_per_epoch: Updates in one epoch.
        samples_left_out: Samples of an epoch that do not fill an update.
        effective_batch_size: Samples of an update over all ranks.
        ranks: Number of processes.
        batch_size: Samples of one forward pass on one rank.
        accumulation_steps: Forward passes of an update on each rank.
        form: Form of an update; None without training.
        slower_because: Reason against each faster form, by name.
        first_update: Completed updates at the start.
        updates: Completed updates at the end.
        epochs: Epochs at the end, with the fraction of an incomplete one.
        samples: Samples at the end.
        callbacks: Callbacks and run plugins of the rounds after updates, in the order of the calls.
        hooks: Ids of the participants in all other hooks, in the order of the calls.
        passes: Passes over evaluation data.
        checkpoints: Updates, number and size of the checkpoints.
        plugins: Origin of each run plugin, in the order of their use.
        tables: Tables of plugins, by name.
        seconds: Duration of all updates at the given time of one; None without it.
        modules: Modules of the model; None if they were not asked for.
    """

    name: str
    device: str
    threads: int
    threads_reason: str
    residence: str
    datasets: dict[str, int]
    parameters: int
    trainable: int
    recomputed: list[str]
    loss: str
    updates_per_epoch: int
    samples_left_out: int
    effective_batch_size: int
    ranks: int
    batch_size: int
    accumulation_steps: int
    form: str | None
    slower_because: dict[str, str]
    first_update: int
    updates: int
    epochs: float
    samples: int
    callbacks: list[PlannedCallback]
    hooks: dict[str, list[str]]
    passes: list[PlannedPass]
    checkpoints: PlannedCheckpoints
    plugins: dict[str, str]
    tables: dict[str, dict[str, Any]]
    seconds: float | None = None
    modules: list[PlannedModule] | None = None


def make_plan(
    loaded: LoadedSpec, plugins: Iterable[str] = (), *, update_time: float | None = None, with_modules: bool = False
) -> Plan:
    """Build a run and return its plan.

    Args:
        loaded: A valid spec.
        plugins: Run plugins beside those that the spec uses.
        update_time: Seconds of one update, for the duration of training.
        with_modules: Call the model once, and add its modules.

    Raises:
        UsageError: if something in the spec cannot be built, or the model cannot be called.
    """
    with rehearsal(loaded, plugins) as run:
        modules = plan_model(run) if with_modules else None
        return replace(_plan_of(run, update_time), modules=modules)


def _plan_of(run: Run, update_time: float | None) -> Plan:
    trainer, counter = run.trainer, run.trainer.update_counter
    trains = trainer.total_training_updates > 0
    datasets = {key: length_of(run.data.get_dataset(key)) for key in run.data.keys()}  # noqa: SIM118  # no mapping
    parameters = list(run.model.parameters())
    form = choose(trainer.config.update, trainer, run.model, explain=True) if trainer.update_form else None
    updates, size = counter.end_update, counter.effective_batch_size
    at_end = type(counter)(counter.cur_iteration, counter.end_iteration, counter.updates_per_epoch, size)
    at_end.update = updates
    return Plan(
        name=run.spec.name,
        device=run.spec.device,
        threads=run.threads.number,
        threads_reason=run.threads.reason,
        residence=_residence(run, trains=trains),
        datasets=datasets,
        parameters=sum(parameter.numel() for parameter in parameters),
        trainable=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        recomputed=recomputed(run.model),
        loss=trainer.average,
        updates_per_epoch=counter.updates_per_epoch if trains else 0,
        samples_left_out=run.data.samples_per_epoch - counter.updates_per_epoch * size if trains else 0,
        effective_batch_size=size,
        ranks=trainer.parallel.world,
        batch_size=trainer.batch_size,
        accumulation_steps=trainer.accumulation_steps,
        form=None if form is None else form.form.name,
        slower_because={} if form is None else dict(form.reasons),
        first_update=counter.update,
        updates=updates,
        epochs=at_end.epoch_as_float if trains else 0.0,
        samples=updates * size,
        callbacks=planned_callbacks(run) if trains else [],
        hooks=other_hooks(run),
        passes=planned_passes(run),
        checkpoints=_checkpoints(run),
        plugins={name: active_registry().load(PLUGIN.name, name).origin for name in run.spec.plugins.use},
        tables={name: table for name, table in resolved_tables(run.spec).items() if name in run.spec.plugin_tables},
        seconds=None if update_time is None else update_time * max(updates - counter.update, 0),
    )


def _residence(run: Run, *, trains: bool) -> str:
    """Describe whether the data sets stay on the device; empty on the CPU, unless the spec wants them there."""
    consumers = [callback.sampler_config for callback in iterator_callbacks(run.trainer.callbacks)]
    found = run.data.residence(consumers, run.trainer.device, trains=trains)
    if found.free is None:
        wanted = run.data.device_resident is True
        return f"in memory: device_resident = true changes nothing on device '{run.spec.device}'" if wanted else ""
    if require_resident(found, run.data.device_resident):
        return f"on the device, {found.words}"
    if found.hindrance:
        return f"on the host: {found.hindrance}"
    return f"on the host; {found.words} fit on the device: device_resident = true under [loader] keeps them there"


def _checkpoints(run: Run) -> PlannedCheckpoints:
    updates = saving_updates(run)
    if not updates:
        return PlannedCheckpoints([], [], {}, optimizer_known=True)
    files, complete = checkpoint_files(run)
    keep = max(run.trainer.checkpoint_writer.keep_last, 1)
    return PlannedCheckpoints(updates, updates[-keep:], files, complete, naming_callbacks(run))
