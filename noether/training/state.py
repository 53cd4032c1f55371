"""RunState: the progress of a run, its only owner; and the parts of a trainer that the loop works with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from logging import Logger
from operator import attrgetter
from typing import Any, Protocol

import torch
from torch import Tensor

from noether.checkpoint.paths import PathProvider
from noether.checkpoint.state import CheckpointState
from noether.checkpoint.writer import CheckpointWriter
from noether.config.metric_facts import MetricPropertyProvider
from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.periodic import PeriodicDataIteratorCallback
from noether.core.initializers.weights import InitializerBase
from noether.core.models.base import ModelBase
from noether.data.container import DataContainer
from noether.data.loader import TrainingLoader
from noether.data.samplers import updates_per_epoch
from noether.errors import PluginError, SpecError
from noether.kernel.compile import Timers
from noether.kernel.dispatch import Dispatch
from noether.kernel.participant import Participant
from noether.kernel.progress import TrainingIteration, UpdateCounter
from noether.metrics.log import LogWriter
from noether.training.accumulation import Weights
from noether.training.nonfinite import FiniteGuard
from noether.training.parallel import Parallel
from noether.training.precision import Precision
from noether.training.signals import StopSignals
from noether.training.trainers.config import BaseTrainerConfig
from noether.training.update import Update

SIZES = ("effective_batch_size", "updates_per_epoch")
"""Sizes that give the counts of a run their meaning; a state holds both beside the counts."""
COUNTS = ("epoch", "update", "sample")


class PendingRound(Protocol):
    """The beginning of a round that a stop has interrupted, for the checkpoint."""

    states: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Mapping[str, Tensor]]]

    def state_dict(self) -> dict[str, Any]:
        """Return the state that the repeated round begins with, beside the states of callbacks."""


@dataclass(slots=True)
class RunState:
    """Progress of a run. Only the loop, stopping and resume write it; a trainer's attributes read it.

    Attributes:
        counter: Completed epochs, updates and samples.
        stop_reason: Reason to end training before its limit; None while training continues.
        stopped_by: Number of the signal that ended the run before its end; None without one.
        is_interruptible: True while a stop may interrupt the round under way between two batches.
        pending_round: Beginning of the round that a stop has interrupted, which a resumed run has to repeat.
        round_to_repeat: The same as a checkpoint holds it, until the round is repeated.
        seconds: Seconds that the parts of all updates have taken so far, by part.
        rounds: Number and seconds of the work between updates, see `noether.training.rounds`.
        is_resumed: True if the run continues with its own state.
        has_ended: True if training has come to its end, by its limit or by an early stop.
    """

    counter: UpdateCounter
    stop_reason: str | None = None
    stopped_by: int | None = None
    is_interruptible: bool = False
    pending_round: PendingRound | None = None
    round_to_repeat: Mapping[str, Any] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    rounds: Timers = field(default_factory=dict)
    is_resumed: bool = False
    has_ended: bool = False

    def state_dict(self) -> dict[str, Any]:
        """Return the progress that a checkpoint holds."""
        pending = self.pending_round
        before_round = self.round_to_repeat if pending is None else pending.state_dict()
        return {
            **{name: getattr(self.counter, name) for name in (*COUNTS, *SIZES)},
            "ended": self.has_ended,
            "round_pending": before_round is not None,
            "before_round": before_round,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned; sizes are checked elsewhere, before anything is restored."""
        self.stand_at(*(state[name] for name in COUNTS))
        self.has_ended = state["ended"]
        self.round_to_repeat = state["before_round"] if state["round_pending"] else None

    def stand_at(self, epoch: int, update: int, sample: int) -> None:
        """Set the counts."""
        self.counter.epoch, self.counter.update, self.counter.sample = epoch, update, sample


def _reads(path: str, doc: str) -> Any:
    """Return a read-only property that reads an attribute of the run's state or of the update."""
    return property(attrgetter(path), doc=doc)


_OWN_PARTS = ("state", "one_update", "update_form", "parallel", "participants", "dispatch", "run", "signals")
_OWN_SIZES = ("batch_size", "accumulation_steps")
_OWN_METHODS = ("prepare", "stand_at", "check_state", "restore_state", "capture_state", "raise_if_stopped")


class ReadsState:
    """Attributes of a trainer: the progress of its run, and the results of its last update.

    A trainer of a user may have attributes and methods of any other name.
    """

    update_counter: UpdateCounter = _reads("state.counter", "Completed epochs, updates and samples.")
    last_loss: Tensor | None = _reads("one_update.last_loss", "Total loss of the last accumulation step, detached.")
    applied: Tensor | None = _reads(
        "one_update.applied",
        "1.0 on the device if the last update was applied, else 0.0; None before the first update.",
    )
    verdict: bool | Tensor | None = _reads(
        "one_update.verdict", "The same as a bool if the host knows, else `applied`."
    )
    loss_weights: Weights | None = _reads(
        "one_update.loss_weights",
        "Weights of the losses of the last accumulation step in a mean over several, by name; None if all are equal.",
    )
    seconds: dict[str, float] = _reads("state.seconds", "Seconds that the parts of all updates have taken so far.")
    is_resumed: bool = _reads("state.is_resumed", "True if the run continues with its own state.")
    has_ended: bool = _reads("state.has_ended", "True if training has come to its end, by limit or early stop.")
    stop_reason: str | None = _reads("state.stop_reason", "Reason to end before the limit; None without one.")
    stopped_by: int | None = _reads("state.stopped_by", "Number of the signal that ended the run early, or None.")
    finite_guard: FiniteGuard = _reads(
        "one_update.guard", "The guard that keeps non-finite updates from being applied."
    )
    total_training_updates: int = _reads("state.counter.end_update", "Updates of the whole run.")

    @property
    def skip_nan_loss_counter(self) -> int:
        """Non-finite updates in a row, which were not applied; waits for the device."""
        self.finite_guard.read()
        return self.finite_guard.in_a_row

    @skip_nan_loss_counter.setter
    def skip_nan_loss_counter(self, in_a_row: int) -> None:
        self.finite_guard.read()
        self.finite_guard.count_from(in_a_row)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute.

        Raises:
            PluginError: if it belongs to the trainer itself.
        """
        if (name in _OWN and name in vars(self)) or name in _READ_ONLY:
            raise _taken(name, type(self))
        super().__setattr__(name, value)

    def _require_own_names(self, base: type) -> None:
        """Refuse a subclass of `base` that gives another meaning to one of the trainer's own names.

        Raises:
            PluginError: if there is one.
        """
        for name in (*_OWN, *_READ_ONLY, *_OWN_METHODS):
            if getattr(type(self), name, None) is not getattr(base, name, None):
                raise _taken(name, type(self))


_OWN = frozenset({*_OWN_PARTS, *_OWN_SIZES})
_READ_ONLY = frozenset(
    name for name, found in vars(ReadsState).items() if isinstance(found, property) and found.fset is None
)


def _taken(name: str, trainer: type) -> PluginError:
    return PluginError(
        f"wrong name in {trainer.__name__}: found {name!r}, which is an attribute of every trainer, expected another",
        hint=f"rename it, for example to my_{name}",
    )


@dataclass(frozen=True, slots=True)
class RunParts:
    """Parts that a run gives to its trainer beside the config, in `BaseTrainer.prepare` or `BaseTrainer.eval`.

    Attributes:
        run: The argument `run` of run hooks.
        plugins: Run plugins, called beside the callbacks.
        initializer: Initializer of the spec. One that continues a run takes the place of the one that the trainer's
            config names; one of weights is called before it.
    """

    run: Any = None
    plugins: Sequence[Participant] = ()
    initializer: InitializerBase | None = None


def starting_counter(
    config: BaseTrainerConfig[Any], samples: int, *, drop_last: bool = True, limit: int | None = None
) -> UpdateCounter:
    """Return a counter at the beginning of the run that `config` describes.

    Args:
        config: The trainer's config.
        samples: Size of the training set.
        drop_last: See `TrainingOrder`.
        limit: Most updates of an epoch; None for all.

    Raises:
        DataError: if the training set is smaller than one effective batch.
        SpecError: if `start_at_epoch` lies after the end.
    """
    size = config.effective_batch_size
    per_epoch = updates_per_epoch(samples, size, drop_last=drop_last, limit=limit)
    epoch = config.start_at_epoch or 0
    start = TrainingIteration(epoch, epoch * per_epoch, epoch * per_epoch * size)
    counter = UpdateCounter(start, config.end_iteration, per_epoch, size)
    if counter.update > counter.end_update:
        raise SpecError(
            f"wrong start_at_epoch: found {epoch}, which begins at update {counter.update}, expected a start before "
            f"the end at update {counter.end_update}",
            hint="lower start_at_epoch or raise the limit",
        )
    return counter


class TrainerParts(Protocol):
    """The members of a trainer that loop, rounds, stopping and resume use."""

    config: Any
    state: RunState
    one_update: Update
    parallel: Parallel
    update_form: Any
    precision: Precision
    device: torch.device
    batch_size: int
    accumulation_steps: int
    callbacks: list[CallbackBase]
    participants: Sequence[Participant]
    dispatch: Dispatch | None
    run: Any
    signals: StopSignals
    log_writer: LogWriter
    checkpoint_writer: CheckpointWriter
    metric_property_provider: MetricPropertyProvider
    data_container: DataContainer
    path_provider: PathProvider
    logger: Logger

    @property
    def has_own_update(self) -> bool:
        """True if the class, or the instance, has an `update` of its own."""

    def get_data_loader(
        self, iterator_callbacks: Sequence[PeriodicDataIteratorCallback], batch_size: int, evaluation: bool = False
    ) -> TrainingLoader:
        """Return the one stream of training and evaluation batches."""

    def call_before_training(self, callbacks: list[CallbackBase]) -> None:
        """Call `before_training` of these callbacks."""

    def call_after_training(self, callbacks: list[CallbackBase]) -> None:
        """Call `after_training` of these callbacks."""

    def capture_state(self, model: ModelBase) -> CheckpointState:
        """Return everything that a checkpoint holds."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back the trainer's own state."""


def may_change_at_every_update(trainer: TrainerParts) -> bool:
    """Return True if a hook of every update is not one of our own, which leave the model as it is."""
    hooks = ("track_after_accumulation_step", "track_after_update_step")
    found = [one.instance for hook in hooks for one in trainer.dispatch.participants(hook)] if trainer.dispatch else []
    return not all(type(instance).__module__.startswith("noether.") for instance in found)
