"""Optimizers of a run: built, checked, shown metrics, given parameters; the update of one that takes a closure."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from noether.checkpoint.state_tree import split_state
from noether.config.metric_facts import MetricPropertyProvider
from noether.core.models.agreement import unfreeze
from noether.core.models.base import ModelBase
from noether.errors import SpecError, TrainingError, placed
from noether.kernel.progress import UpdateCounter
from noether.metrics.log import LogWriter
from noether.optim.plateau import MetricSchedule, ReduceOnPlateau
from noether.training.state import RunState
from noether.training.trainers.types import TrainerResult
from noether.training.update import StepOutcome, Substitute, Update


class ClosureUpdate(Substitute):
    """An update with an optimizer that takes a closure; it has one batch and no scaler.

    The losses and outputs of callbacks are those of the first evaluation, and `before_optimizer_step` sees its
    gradients. If they are finite, the optimizer evaluates the same batch as often as it wants to.

    Args:
        update: The update that it takes the place of, with its settings.
        skips: True if non-finite updates are skipped.

    Raises:
        SpecError: if a setting of the update cannot be kept.
    """

    def __init__(self, update: Update, *, skips: bool) -> None:
        _require_plain(update, skips=skips)
        super().__init__(update)
        self._batch: Any = None

    def follow(
        self,
        train_step: Callable[[Any, torch.nn.Module], TrainerResult],
        accumulate: Callable[..., StepOutcome] | None = None,
    ) -> None:
        """Set the train step.

        Raises:
            SpecError: if the trainer has an `update` of its own, which would not evaluate the loss again.
        """
        if accumulate is not None:
            raise _misfit("a trainer with an `update` of its own", "choose another optimizer or trainer")
        super().follow(train_step)

    def accumulate(
        self,
        batch: Any,
        dist_model: torch.nn.Module,
        model: ModelBase,
        accumulation_steps_total: int,
        accumulation_step: int,
        retain_graph: bool = False,
    ) -> StepOutcome:
        """Do the update; keep its batch for the optimizer's evaluations."""
        self._batch = batch
        try:
            return super().accumulate(
                batch, dist_model, model, accumulation_steps_total, accumulation_step, retain_graph
            )
        finally:
            self._batch = None

    def _apply(self, model: ModelBase, loss: Tensor) -> None:
        """Let the optimizer evaluate and step if the first evaluation is finite; release the gradients."""
        if model is not self._fitted:
            self._fit(model)
        if self._before_optimizer_step is not None:
            self._before_optimizer_step(model)
        if self.guard.admits(loss, [p.grad for p in self._parameters if p.grad is not None]):
            self._evaluate_and_step(model, loss)
            self.guard.admits(loss, list(map(torch.detach, self._parameters)))  # a line search may leave for infinity
        model.optimizer_zero_grad()

    def _evaluate_and_step(self, model: ModelBase, loss: Tensor) -> None:
        (optimizer,) = self._torch_optimizers
        knows_first = isinstance(optimizer, torch.optim.LBFGS)  # its first evaluation is at the present weights

        def closure() -> Tensor:
            nonlocal knows_first
            if knows_first:
                knows_first = False
                return loss
            model.optimizer_zero_grad()
            with torch.enable_grad(), self.precision.autocast():
                total = TrainerResult.of(self.train_step(self._batch, self._dist_model or model)).total_loss
                total.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            return total.detach()

        optimizer.step(closure)  # type: ignore[arg-type]  # torch's type is that of a closure that returns a float


def _require_plain(update: Update, *, skips: bool) -> None:
    """Refuse settings that need gradients to be evaluated once, and in one place."""
    settings = {
        'precision = "float16"': (update.precision.scaler is not None, 'set precision = "fp32" or "bf16"'),
        "gradient accumulation": (update.accumulation_steps > 1, "raise max_batch_size, or lower effective_batch_size"),
        "skip_nan_loss": (skips, "set skip_nan_loss = false"),
    }
    for setting, (found, hint) in settings.items():
        if found:
            raise _misfit(setting, hint)


def _misfit(setting: str, hint: str) -> SpecError:
    return SpecError(f"{setting} does not fit an optimizer that evaluates the loss several times an update", hint=hint)


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


def follow_metrics(log_writer: LogWriter, model: ModelBase, directions: MetricPropertyProvider) -> None:
    """Let a log writer show the metrics of each boundary to the model's schedules that follow one.

    Raises:
        UnknownDirectionError: if a schedule needs the direction of a metric that has none.
    """
    schedules = _metric_schedules(model)
    for schedule in schedules:
        schedule.take_directions(directions)
    log_writer.on_metrics = [schedule.read for schedule in schedules]
    if all(type(schedule) is ReduceOnPlateau for schedule in schedules):
        log_writer.followed = frozenset(
            key for schedule in schedules for key in schedule.consumed_metrics(schedule.schedule_config)
        )
    else:
        log_writer.followed = None  # another schedule may count the boundaries


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
    parallel: Any
    metric_property_provider: MetricPropertyProvider
    _trained: ModelBase | None = None

    def give_optimizers(self, model: ModelBase) -> None:
        """Build the optimizers of a model, and the update that they need.

        Raises:
            SpecError: if an optimizer does not fit the model, or an option of the trainer does not fit the optimizer.
        """
        with placed("model"):
            give_optimizers(model, self.state.counter)
        require_keepable(model)
        if takes_closure(model) and self.parallel.world > 1:
            raise SpecError(
                f"wrong model.optimizer: found one that evaluates the loss itself, as LBFGS does, with "
                f"{self.parallel.world} ranks, which exchange gradients once an update; expected another one",
                hint="train with one rank, or choose another optimizer",
            )
        plain: Update = getattr(self.one_update, "plain", self.one_update)
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
            follow_metrics(self.log_writer, model, self.metric_property_provider)
        return names
