"""CallbackBase: the hooks before and after training, state, and what a callback can reach."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor

from noether.checkpoint.paths import PathProvider
from noether.checkpoint.writer import CheckpointWriter
from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import MetricFacts
from noether.core.models.base import ModelBase
from noether.core.protocols import RunningTrainer
from noether.data.container import DataContainer
from noether.kernel.dispatch import Dispatch
from noether.kernel.entries import Component
from noether.kernel.hookspecs import HOOKS
from noether.kernel.markers import inherited_no_op
from noether.kernel.progress import UpdateCounter
from noether.metrics.directions import MetricPropertyProvider
from noether.metrics.log import LogWriter
from noether.metrics.tracker import BaseTracker

__all__ = ["CallBackBaseConfig", "CallbackBase"]


class CallbackGroup(Protocol):
    """A group of callbacks that another callback owns and calls: `noether.core.callbacks.tree.NestedCallbacks`."""

    @property
    def members(self) -> Sequence[CallbackBase]:
        """The callbacks of the group."""

    @property
    def dispatch(self) -> Dispatch:
        """The compiled hooks that the owner passes on to the group."""

    def name_after(self, parent_id: str) -> None:
        """Put the owner's id before the ids of the group."""

    def compile(self) -> Dispatch:
        """Compile the hooks that the owner passes on to the group."""


class CallbackBase:
    """Base class of everything that follows a training run.

    All hooks run under `torch.no_grad()`. A callback with state returns it from `state_dict` and takes it back in
    `load_state_dict`; one that keeps large files reads them in `resume_from_checkpoint`.

    Args:
        trainer: The trainer of the run.
        model: The model that is trained.
        data_container: All data sets of the run.
        tracker: The experiment tracker.
        log_writer: Takes metrics; available as `self.writer`.
        checkpoint_writer: Takes requests for checkpoints.
        metric_property_provider: Says which way a metric improves.
        name: A name of its own; unset, its kind.

    Attributes:
        id: Unique within the run: its key in checkpoints, logs and profiles.
        component: What its kind resolved to; None for a callback that is built by hand.
        draws_every_update: Whether a hook of every update (`track_…`, `before_optimizer_step`) draws from the global
            random generators. They are put back after it then, so that training does not change; that costs about
            100 µs an update. After all other hooks they are put back anyway.
        saves_checkpoints: Whether it asks for a checkpoint whenever its interval fires; `noether plan` counts them.
        changes_files_in_rounds: Whether `after_update`, `after_epoch` or `periodic_callback` changes the tensors of its
            `state_files`, so that a round that a stop may interrupt begins with a copy of them.
        passes_on: The hooks that it calls on the callbacks it owns; the run calls the others on them.
    """

    draws_every_update: ClassVar[bool] = False
    saves_checkpoints: ClassVar[bool] = False
    changes_files_in_rounds: ClassVar[bool] = True
    passes_on: ClassVar[frozenset[str]] = frozenset(HOOKS)

    def __init__(
        self,
        trainer: RunningTrainer,
        model: ModelBase,
        data_container: DataContainer,
        tracker: BaseTracker,
        log_writer: LogWriter,
        checkpoint_writer: CheckpointWriter,
        metric_property_provider: MetricPropertyProvider,
        name: str | None = None,
    ) -> None:
        self.trainer = trainer
        self.model = model
        self.data_container = data_container
        self.tracker = tracker
        self.writer = log_writer
        self.checkpoint_writer = checkpoint_writer
        self.metric_property_provider = metric_property_provider
        self.name = name
        self.id: str = name or ""
        self.component: Component | None = None

    # What can be said of a callback before it is built. A subclass that logs or reads metrics says so itself: what its
    # base class says is not taken to be all of it.

    @classmethod
    def produced_metrics(cls, config: Any, facts: MetricFacts) -> tuple[str, ...] | None:
        """Return the keys of all metrics that it logs, `*` for what is not known; None if nothing can be said."""
        return None

    @classmethod
    def consumed_metrics(cls, config: Any) -> tuple[str, ...]:
        """Return the keys that it reads from the metrics of the round in which it is called, and cannot do without."""
        return ()

    @classmethod
    def compared_metrics(cls, config: Any) -> tuple[str, ...]:
        """Return those keys that it has to know the direction of: all, unless `higher_is_better` says it or is none."""
        compares = getattr(config, "higher_is_better", False) is None
        return cls.consumed_metrics(config) if compares else ()

    @classmethod
    def child_metric_prefixes(cls, config: Any) -> tuple[str, ...] | None:
        """Return what it puts before the keys of its children, one entry for each set of them; None if unknown."""
        return None

    @classmethod
    def acts_at_the_end(cls) -> bool:
        """Whether it has something to do when training ends, even if its interval has never fired."""
        return cls.after_training is not CallbackBase.after_training

    @property
    def logger(self) -> logging.Logger:
        """Logger of this callback's class."""
        return logging.getLogger(f"noether.callbacks.{type(self).__name__}")

    def state_dict(self) -> dict[str, Any] | None:
        """Return what a checkpoint has to keep of this callback; None where it has no state."""
        return None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""

    def state_files(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Return large state as files of tensors, by name: the step holds `callbacks/<id>/<name>.safetensors`.

        They are read back in `resume_from_checkpoint`. A partial save holds them only where they were asked for.
        """
        return {}

    def resume_from_checkpoint(self, resumption_paths: PathProvider, model: ModelBase) -> None:
        """Read state that this callback keeps in files of its own."""

    def get_children(self) -> list[CallbackBase]:
        """Return the callbacks that this one owns and whose data the run's stream has to deliver."""
        return []

    def nested(self) -> Sequence[CallbackGroup]:
        """Return all callbacks that this one owns, in sets; they get ids below its own, and state in the checkpoint."""
        return ()

    def close(self) -> None:
        """Release what is open; called exactly once, however training ended."""

    @inherited_no_op
    def before_training(self, *, update_counter: UpdateCounter) -> None:
        """Prepare, check, or log what is known before the first update."""

    @inherited_no_op
    def after_training(self, *, update_counter: UpdateCounter) -> None:
        """Finish: log summaries, write last files."""
