"""Optimizers of a run: built, checked against the trainer's options, shown metrics, and given further parameters."""

from __future__ import annotations

import logging
from typing import Any

from noether.checkpoint.state import split_state
from noether.core.models.agreement import unfreeze
from noether.core.models.base import ModelBase
from noether.errors import SpecError, TrainingError
from noether.kernel.progress import UpdateCounter
from noether.metrics.log import LogWriter
from noether.optim.plateau import MetricSchedule
from noether.training.closure import ClosureUpdate
from noether.training.state import RunState
from noether.training.update import Update

_LOG = logging.getLogger("noether.optimizers")


def give_optimizers(model: ModelBase, counter: UpdateCounter) -> None:
    """Build the model's optimizers for a run of this length, unless it has some that were made by hand.

    Raises:
        SpecError: if nothing in the model is trainable.
    """
    span = (counter.end_update, counter.updates_per_epoch)
    known = model.optimizers().values()
    if not counter.end_update or (known and all(optimizer.built_for in (None, span) for optimizer in known)):
        return
    model.initialize_optimizer(total_updates=span[0], updates_per_epoch=span[1])
    if not model.optimizers():
        raise SpecError(
            "the model has no trainable parameters, expected at least one", hint="loosen `frozen` under [model]"
        )


def require_keepable(model: ModelBase) -> None:
    """Check that a checkpoint can hold the state that an optimizer which is not torch's has after one update.

    Raises:
        SpecError: if it cannot; names the entry.
    """
    for optimizer in model.optimizers().values():
        if optimizer.traits.trial is not None:
            try:
                split_state(optimizer.traits.trial, f"the optimizer {type(optimizer.torch_optimizer).__name__}")
            except TrainingError as error:
                raise SpecError(error.message, hint="keep it as such values in `state` or in `state_dict`") from error


def takes_closure(model: ModelBase) -> bool:
    """Return True if the optimizer evaluates the loss itself.

    Raises:
        SpecError: if it is not the only optimizer.
    """
    found = [optimizer for optimizer in model.optimizers().values() if optimizer.traits.takes_closure]
    if found and len(model.optimizers()) > 1:
        raise SpecError(
            f"{type(found[0].torch_optimizer).__name__} evaluates the loss several times an update and has to be the "
            f"only optimizer: found {len(model.optimizers())} optimizers",
            hint="choose another optimizer for the parts of the composite",
        )
    return bool(found)


def _metric_schedules(model: ModelBase) -> list[MetricSchedule]:
    optimizers = model.optimizers().values()
    return [schedule for optimizer in optimizers for schedule in optimizer.metric_schedules().values()]


def follow_metrics(log_writer: LogWriter, model: ModelBase) -> None:
    """Let a log writer show the metrics of each boundary to the model's schedules that follow one."""
    log_writer.on_metrics = [schedule.read for schedule in _metric_schedules(model)]


def warn_of_unread_metrics(model: ModelBase) -> None:
    """Warn of schedules that have not seen their metric in the whole run."""
    for key in dict.fromkeys(key for schedule in _metric_schedules(model) for key in schedule.unread()):
        _LOG.warning("the metric '%s', which a schedule of the optimizer follows, was never logged", key)


class TrainsParameters:
    """The part of a trainer that lets parameters begin to train during a run."""

    config: Any
    state: RunState
    one_update: Update
    log_writer: LogWriter
    _trained: ModelBase | None = None

    def give_optimizers(self, model: ModelBase) -> None:
        """Build the optimizers of a model, and the update that they need.

        Raises:
            SpecError: if an optimizer does not fit the model, or an option of the trainer does not fit the optimizer.
        """
        give_optimizers(model, self.state.counter)
        require_keepable(model)
        plain = self.one_update.plain if isinstance(self.one_update, ClosureUpdate) else self.one_update
        skips = self.config.skip_nan_loss
        vars(self)["one_update"] = ClosureUpdate(plain, skips=skips) if takes_closure(model) else plain
        self._trained = model

    def unfreeze(self, pattern: str, *, lr: float | None = None, weight_decay: float | None = None) -> list[str]:
        """Let frozen parameters train from the next update on; callbacks call it in any hook after an update.

        They get parameter groups of their own in the optimizer of their part, by the rules of the spec's groups, and
        the schedules apply to them. A resumed run has them again. Parameters that train already stay as they are, so
        that a callback may call it again in `before_training` of a resumed run.

        Args:
            pattern: Pattern of parameter names, as in a shell: `encoder.*`.
            lr: Their learning rate before the schedule; unset, the optimizer's.
            weight_decay: Their weight decay; unset, the optimizer's.

        Returns:
            The names of the parameters that were frozen before.

        Raises:
            SpecError: if no parameter matches, or the optimizer lacks one of the options.
            TrainingError: if it is called between two accumulation steps of an update.
        """
        model, counter = self._trained, self.state.counter
        if model is None or not model.optimizers():
            raise TrainingError("unfreeze needs optimizers: found none, expected a run that trains")
        if self.one_update.is_unfinished:
            raise TrainingError(
                "unfreeze was called between two accumulation steps: the gradients would be of a part of the update",
                hint="call it in a hook after an update, for example `after_update` or `periodic_callback`",
            )
        span = (counter.end_update, counter.updates_per_epoch)
        names = unfreeze(model, pattern, span=span, lr=lr, weight_decay=weight_decay)
        if names:
            self.one_update.take_optimizers(model)
            follow_metrics(self.log_writer, model)
        return names
