"""Intervals that never fire before the run ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from noether.config.base import component_of
from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import intervals_of
from noether.kernel.intervals import Intervals
from noether.kernel.progress import TrainingIteration, UpdateCounter
from noether.spec.configs import Path
from noether.spec.finding import Finding
from noether.spec.model import RunSpec
from noether.spec.problem import Problem


def counter_of(spec: RunSpec, updates_per_epoch: int | None = None) -> UpdateCounter | None:
    """Return the counter of a run before its first update; None where its length depends on the size of the data.

    Args:
        spec: A valid spec.
        updates_per_epoch: Updates in one epoch, where they are known.
    """
    trainer = spec.trainer
    if updates_per_epoch is None and trainer.max_epochs is not None:
        return None
    per_epoch = updates_per_epoch or 1
    epoch = trainer.start_at_epoch or 0 if updates_per_epoch else 0
    start = TrainingIteration(epoch, epoch * per_epoch, epoch * per_epoch * trainer.effective_batch_size)
    return UpdateCounter(start, trainer.end_iteration, per_epoch, trainer.effective_batch_size)


def interval_findings(spec: RunSpec, counter: UpdateCounter | None, *, all_units: bool = False) -> Iterator[Finding]:
    """Yield the callbacks of the spec whose interval does not fire before the run ends.

    Args:
        spec: A valid spec.
        counter: The run's counter; None where the number of updates is not known.
        all_units: Whether the counter knows the updates of an epoch.
    """
    trainer = spec.trainer
    if 0 in (trainer.max_epochs, trainer.max_updates, trainer.max_samples):
        return
    for path, config in _scheduled(trainer, ("trainer",)):
        intervals = intervals_of(config)
        if (end := _end_without_firing(intervals, trainer, counter, all_units=all_units)) is None:
            continue
        acts = component_of(config).target.acts_at_the_end()
        message = f"{intervals.verbose.replace('=', ' = ')} never fires: the run ends after {end}"
        hint = "shorten the interval, or leave the callback out: --unset does it for one run"
        if acts:
            message += "; the callback still acts at the end of training"
        yield Finding(Problem((*path, _unit(intervals)), message, hint), not acts)


def _scheduled(owner: Any, path: Path) -> Iterator[tuple[Path, CallBackBaseConfig]]:
    """Yield the callbacks that run on intervals of their own, nested ones too."""
    for field in type(owner).model_fields:
        value = getattr(owner, field)
        for index, config in enumerate(value if isinstance(value, list) else ()):
            if not isinstance(config, CallBackBaseConfig):
                continue
            place = (*path, field, index)
            if intervals_of(config).verbose:
                yield place, config
            if config.children_need_interval:
                yield from _scheduled(config, place)


def _end_without_firing(
    intervals: Intervals, trainer: Any, counter: UpdateCounter | None, *, all_units: bool
) -> str | None:
    """Return the length of the run in words, if the interval certainly does not fire in it."""
    size = trainer.effective_batch_size
    if not all_units and trainer.max_epochs is not None:  # epochs by themselves need no size
        if intervals.every_n_epochs is None:
            return None
        due = intervals.next_due_update(trainer.start_at_epoch or 0, 1, size)
        return _counted(trainer.max_epochs, "epoch") if due > trainer.max_epochs else None
    if counter is None or (intervals.every_n_epochs is not None and not all_units):
        return None
    due = intervals.next_due_update(counter.update, counter.updates_per_epoch, size)
    if due <= counter.end_update:
        return None
    if intervals.every_n_samples is not None:
        return _counted(counter.end_update * size, "sample")
    if intervals.every_n_epochs is None:
        return _counted(counter.end_update, "update")
    return f"{counter.end_update} updates, and an epoch has {counter.updates_per_epoch}"


def _counted(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"


def _unit(intervals: Intervals) -> str:
    return intervals.verbose.partition("=")[0]
