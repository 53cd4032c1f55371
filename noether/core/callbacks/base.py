"""CallbackBase: hooks before and after training, state in checkpoints, and access to the run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isfunction, isgeneratorfunction
from typing import Any, ClassVar, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor

from noether.checkpoint.paths import PathProvider
from noether.checkpoint.writer import CheckpointWriter
from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import Direction, MetricFacts, MetricPropertyProvider
from noether.core.models.base import ModelBase
from noether.core.protocols import RunningTrainer
from noether.data.container import DataContainer
from noether.errors import TrainingError
from noether.kernel.dispatch import Dispatch
from noether.kernel.entries import Component
from noether.kernel.hookspecs import GUARDED, HOOKS, inherited_no_op
from noether.kernel.progress import UpdateCounter
from noether.metrics.log import LogWriter
from noether.metrics.tracker import BaseTracker

__all__ = ["CallBackBaseConfig", "CallbackBase"]

P = ParamSpec("P")
T = TypeVar("T")


def without_gradients(hook: Callable[P, T]) -> Callable[P, T]:
    """Run `hook` under `torch.no_grad()` if it is called by hand; the loop runs without gradients, and skips this."""

    @wraps(hook)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if not torch.is_grad_enabled():
            return hook(*args, **kwargs)
        with torch.no_grad():
            return hook(*args, **kwargs)

    setattr(call, GUARDED, (call, hook))  # the guard too: `functools.wraps` copies the mark to other functions
    return call


@contextmanager
def explaining_gradients() -> Iterator[None]:
    """Explain an error of autograd that gradients are off in evaluations.

    Raises:
        TrainingError: in place of that error.
    """
    try:
        yield
    except RuntimeError as error:
        if torch.is_grad_enabled() or "does not require grad" not in str(error):
            raise
        raise TrainingError(
            f"gradients are taken in an evaluation, where they are off: found {error}",
            hint="put what they are taken of, and torch.autograd.grad, below `with torch.enable_grad():`",
        ) from error


def _only_begins(hook: Callable[..., Any]) -> bool:
    """Return True if a call of a function does not run it to its end, as that of a wrapper around other hooks."""
    return isgeneratorfunction(hook) or iscoroutinefunction(hook) or isasyncgenfunction(hook)


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
    """Base class of callbacks, which follow a training run.

    All hooks run under `torch.no_grad()`. A callback with state returns it from `state_dict` and restores it in
    `load_state_dict`; one with large files reads them in `resume_from_checkpoint`.

    Args:
        trainer: The trainer of the run.
        model: The model that is trained.
        data_container: All data sets of the run.
        tracker: The experiment tracker.
        log_writer: Writer of metrics; available as `self.writer`.
        checkpoint_writer: Writer that takes requests for checkpoints.
        metric_property_provider: Directions in which metrics improve.
        name: Name of the callback; its kind by default.

    Attributes:
        id: Key in checkpoints, logs and profiles; unique within the run.
        component: Component that its kind resolved to; None for a callback that is built by hand.
        draws_every_update: True if a hook of every update (`track_…`, `before_optimizer_step`) draws from the global
            random generators. They are then restored after it, so that training does not change; that costs about
            100 µs an update. After other hooks they are put back unless `draws_in_rounds` is False.
        draws_in_rounds: False if none of its other hooks draws from the global random generators, so that a round does
            not save and restore them for this callback. It counts for the class that declares it only.
        calls_model: False if none of its hooks calls the model, so that a round does not switch it to evaluation mode
            for this callback. It counts for the class that declares it only.
        saves_checkpoints: True if it asks for a checkpoint whenever its interval fires; `noether plan` counts them.
        changes_files_in_rounds: True if `after_update`, `after_epoch` or `periodic_callback` changes the tensors of its
            `state_files`: a round that a stop may interrupt then begins with a copy of them.
        passes_on: Hooks that it calls on the callbacks it owns; the run calls the other hooks on them.
    """

    draws_every_update: ClassVar[bool] = False
    draws_in_rounds: ClassVar[bool] = True
    calls_model: ClassVar[bool] = True
    saves_checkpoints: ClassVar[bool] = False
    changes_files_in_rounds: ClassVar[bool] = True
    passes_on: ClassVar[frozenset[str]] = frozenset(HOOKS)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in HOOKS:
            hook = vars(cls).get(name)
            if isfunction(hook) and not _only_begins(hook):
                setattr(cls, name, without_gradients(hook))

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

    # Declarations that are read before a callback is built. Each class declares its own metrics: the declaration of a
    # base class is not taken as complete.

    @classmethod
    def produced_metrics(cls, config: Any, facts: MetricFacts) -> tuple[str, ...] | None:
        """Return the keys of all metrics that it logs, `*` for an unknown part; None if nothing is known."""
        return None

    @classmethod
    def consumed_metrics(cls, config: Any) -> tuple[str, ...]:
        """Return the keys that it requires among the metrics of the round in which it is called."""
        return ()

    @classmethod
    def compared_metrics(cls, config: Any) -> tuple[str, ...]:
        """Return the keys whose direction has to be known: all, unless `higher_is_better` is set or missing."""
        compares = getattr(config, "higher_is_better", False) is None
        return cls.consumed_metrics(config) if compares else ()

    @classmethod
    def metric_directions(cls, config: Any) -> Mapping[str, Direction]:
        """Return `higher`, `lower` or `neutral` for metrics that it logs, by pattern; they come before known names."""
        return {}

    @classmethod
    def child_metric_prefixes(cls, config: Any) -> tuple[str, ...] | None:
        """Return the prefixes of its children's keys, one for each set of children; None if unknown."""
        return None

    @classmethod
    def acts_at_the_end(cls) -> bool:
        """Return True if it acts at the end of training even if its interval never fired."""
        return cls.after_training is not CallbackBase.after_training

    @property
    def logger(self) -> logging.Logger:
        """Logger of this callback's class."""
        return logging.getLogger(f"noether.callbacks.{type(self).__name__}")

    def in_units(self, name: str, tensor: Tensor) -> Tensor:
        """Return predictions or targets in the units of the training data, before its transforms.

        ```python
        outputs = self.trainer.forward(batch, trainer_model)
        error = self.in_units("stress", outputs["stress"]) - self.in_units("stress", batch["stress_target"])
        ```

        Args:
            name: The field, `stress`, or a property of a sample.
            tensor: Its values, of shape (batch, ...).

        Raises:
            DataError: if there is no such field or property.
        """
        return self.data_container.in_units(name, tensor)

    def state_dict(self) -> dict[str, Any] | None:
        """Return the state that a checkpoint keeps for this callback; None if it has none."""
        return None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""

    def state_files(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Return large state as files of tensors, by name: a checkpoint holds `callbacks/<id>/<name>.safetensors`.

        They are read back in `resume_from_checkpoint`. A partial save holds them only if they were requested.
        """
        return {}

    def resume_from_checkpoint(self, resumption_paths: PathProvider, model: ModelBase) -> None:
        """Restore the state that this callback keeps in files."""

    def get_children(self) -> list[CallbackBase]:
        """Return the owned callbacks whose data comes through the run's stream."""
        return []

    def nested(self) -> Sequence[CallbackGroup]:
        """Return all callbacks that this one owns, in sets; they get ids below its own, and state in the checkpoint."""
        return ()

    def close(self) -> None:
        """Release open resources; called exactly once, however training ended."""

    @inherited_no_op
    def before_training(self, *, update_counter: UpdateCounter) -> None:
        """Prepare, check, or log facts that are known before the first update."""

    @inherited_no_op
    def after_training(self, *, update_counter: UpdateCounter) -> None:
        """Log summaries and write the last files."""


def logs(*keys: str) -> Any:
    """Return the `produced_metrics` of a class that logs these keys and no others."""
    return classmethod(lambda cls, config, facts: keys)


class OneShotConfig(CallBackBaseConfig):
    """Settings of a callback without a schedule."""

    needs_interval: ClassVar[bool] = False


class OneShotCallback(CallbackBase):
    """Base class of callbacks that act once, in `before_training`."""

    def __init__(self, callback_config: OneShotConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.callback_config = callback_config
