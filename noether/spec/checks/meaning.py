"""Checks of a valid spec: unlogged metrics, intervals that never fire, missing properties."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from noether.config.base import component_of
from noether.config.components import CallBackBaseConfig, CollatorBaseConfig, PeriodicDataIteratorCallbackConfig
from noether.config.metric_facts import intervals_of
from noether.kernel.names import did_you_mean
from noether.kernel.progress import Intervals, TrainingIteration, UpdateCounter
from noether.spec.checks.metrics import metric_findings, metric_flow, schedule_findings
from noether.spec.errors.problem import MAX_PROBLEMS, Finding, Problem
from noether.spec.errors.words import counted, quoted
from noether.spec.locate import TomlPath
from noether.spec.model import RunSpec
from noether.spec.sweep import sweep_findings

_ADDED: dict[str, tuple[str, ...]] = {"stack": (), "pad": ("mask",), "concat": ("batch_index",)}
"""Properties that a collator adds to a batch, by kind; those of other collators are unknown."""


def counter_of(spec: RunSpec, updates_per_epoch: int | None = None) -> UpdateCounter | None:
    """Return the counter of a run before its first update; None if its length depends on the size of the data.

    Args:
        spec: A valid spec.
        updates_per_epoch: Updates in one epoch, if known.
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
        counter: The run's counter; None if the number of updates is unknown.
        all_units: True if the counter knows the updates of an epoch.
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
        hint = f"shorten the interval, or leave the callback out of one run: --unset {'.'.join(map(str, path))}"
        if acts:
            message += "; the callback still runs at the end of training"
        yield Finding(Problem("never-fires", (*path, _unit(intervals)), message, hint), not acts)


def _scheduled(owner: Any, path: TomlPath) -> Iterator[tuple[TomlPath, CallBackBaseConfig]]:
    """Yield the callbacks that run on their own intervals, nested ones too."""
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
    """Return the length of the run in words, if the interval certainly does not fire in it; else None."""
    size = trainer.effective_batch_size
    if not all_units and trainer.max_epochs is not None:  # epochs by themselves need no size
        if intervals.every_n_epochs is None:
            return None
        due = intervals.next_due_update(trainer.start_at_epoch or 0, 1, size)
        return counted(trainer.max_epochs, "epoch") if due > trainer.max_epochs else None
    if counter is None or (intervals.every_n_epochs is not None and not all_units):
        return None
    due = intervals.next_due_update(counter.update, counter.updates_per_epoch, size)
    if due <= counter.end_update:
        return None
    if intervals.every_n_samples is not None:
        return counted(counter.end_update * size, "sample")
    if intervals.every_n_epochs is None:
        return counted(counter.end_update, "update")
    return f"{counter.end_update} updates, and an epoch has {counter.updates_per_epoch}"


def _unit(intervals: Intervals) -> str:
    return intervals.verbose.partition("=")[0]


def property_findings(spec: RunSpec) -> Iterator[Finding]:
    """Yield properties that a data set does not have, for data sets that declare their properties."""
    known = {key: _known_properties(spec, key) for key in spec.datasets}
    first = "train" if "train" in spec.datasets else next(iter(spec.datasets), None)
    wanted: list[tuple[TomlPath, str | None, Sequence[str]]] = [
        (("trainer", field), first, getattr(spec.trainer, field))
        for field in ("forward_properties", "target_properties")
    ]
    for index, config in enumerate(spec.trainer.callbacks or []):
        if isinstance(config, PeriodicDataIteratorCallbackConfig):
            key = config.dataset_key or next(iter(spec.datasets), None)
            wanted.append((("trainer", "callbacks", index, "properties"), key, config.properties or ()))
    for index, transform in enumerate(spec.transforms):
        if _keeps_properties(transform):
            wanted.append((("transforms", index, "properties"), first, getattr(transform, "properties", ())))
    for path, key, names in wanted:
        yield from _missing(path, key, names, known)


def _missing(
    path: TomlPath, key: str | None, names: Sequence[str], known: Mapping[str, tuple[str, ...] | None]
) -> Iterator[Finding]:
    present = known.get(key or "")
    if present is None:
        return
    for index, name in enumerate(names):
        if name not in present:
            message = f"the data set {quoted(key or '')} has no property {quoted(name)}.{did_you_mean(name, present)}"
            hint = f"it has {', '.join(present)}"
            yield Finding(Problem("unknown-property", (*path, index), message, hint))


def _known_properties(spec: RunSpec, key: str) -> tuple[str, ...] | None:
    """Return the properties of a data set after its transforms, or None if they are unknown."""
    config = spec.datasets[key]
    target = component_of(config).target
    if "known_properties" not in getattr(target, "__dict__", ()) or not all(
        map(_keeps_properties, (*config.transforms, *spec.transforms))
    ):
        return None
    properties: tuple[str, ...] | None = target.known_properties(config)
    collate = config.collate  # a data set may have an option of this name
    added = _ADDED.get(collate.kind if isinstance(collate, CollatorBaseConfig) else "stack")
    return None if properties is None or added is None else (*properties, *added)


def _keeps_properties(transform: Any) -> bool:
    return bool(getattr(component_of(transform).target, "keeps_properties", False))


def meaning_problems(spec: RunSpec, *, plugins: Sequence[str] = ()) -> list[Problem]:
    """Return the findings that are certain, up to the number shown.

    Args:
        spec: A valid spec whose callbacks have their ids.
        plugins: Run plugins in addition to those of the spec.
    """
    certain = (problem for problem, certain in _findings(spec, plugins) if certain)
    return list(islice(certain, MAX_PROBLEMS))


def meaning_notes(spec: RunSpec, *, plugins: Sequence[str] = ()) -> list[Problem]:
    """Return the findings that are uncertain, because a component does not declare what it logs."""
    return [problem for problem, certain in _findings(spec, plugins) if not certain]


def _findings(spec: RunSpec, plugins: Sequence[str]) -> Iterator[Finding]:
    counter = counter_of(spec)
    flow = metric_flow(spec, end_update=counter.end_update if counter else None, plugins=plugins)
    yield from metric_findings(flow, spec.expect)
    yield from schedule_findings(spec, flow)
    yield from interval_findings(spec, counter)
    yield from property_findings(spec)
    yield from sweep_findings(spec, flow)
