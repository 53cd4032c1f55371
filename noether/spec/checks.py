"""Checks between the tables of a spec: intervals, ids, data sets, unlogged metrics, missing properties.

Those of a document come first and read it instead of the validated spec, so that their problems are shown together
with those of validation; malformed values are left to it. The others need a valid spec.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any

from pydantic import BaseModel

from noether.config.base import component_of
from noether.config.components import CallBackBaseConfig, CollatorBaseConfig, PeriodicDataIteratorCallbackConfig
from noether.config.discriminated import Discriminated
from noether.config.metric_facts import intervals_of
from noether.kernel.names import did_you_mean, nearest
from noether.kernel.progress import EVERY, Intervals, TrainingIteration, UpdateCounter
from noether.spec.errors.problem import MAX_PROBLEMS, Finding, Problem
from noether.spec.errors.words import counted, described, listed, quoted, suggestion, toml_path
from noether.spec.fields import ID, LONGEST_ID, class_of, default_id, item_ids, lists_of_role
from noether.spec.locate import TomlPath
from noether.spec.metric_checks import metric_findings, metric_flow, schedule_findings
from noether.spec.model import RunSpec
from noether.spec.sweep import sweep_findings

_TRAINER = Annotated[Any, Discriminated("trainer")]
_CALLBACK = Annotated[Any, Discriminated("callback")]
_USUAL_FIELDS = ("callbacks", "eval_callbacks")


@dataclass(frozen=True)
class CallbackList:
    """The callbacks in one field of a trainer or of a parent callback.

    Attributes:
        path: The path of the list.
        items: The callbacks: tables, or bare kinds.
        classes: The config class of each, or None if its kind is wrong.
        triggered: True if the parent decides when they run, regardless of their intervals.
    """

    path: TomlPath
    items: list[Any]
    classes: list[type[BaseModel] | None]
    triggered: bool = False


def callback_lists(document: dict[str, Any]) -> Iterator[CallbackList]:
    """Yield every list of callbacks, parents before children; malformed tables are skipped."""
    trainer = document.get("trainer")
    if isinstance(trainer, dict):
        yield from _lists_in(trainer, class_of(_TRAINER, trainer), ("trainer",), triggered=False)


def _lists_in(
    owner: dict[str, Any],
    owner_class: type[BaseModel] | None,
    path: TomlPath,
    *,
    triggered: bool,
) -> Iterator[CallbackList]:
    fields = lists_of_role(owner_class, "callback") if owner_class else _USUAL_FIELDS
    for field in fields:
        items = owner.get(field)
        if not isinstance(items, list):
            continue
        classes = [class_of(_CALLBACK, item) for item in items]
        yield CallbackList((*path, field), items, classes, triggered)
        for index, (item, item_class) in enumerate(zip(items, classes, strict=True)):
            if isinstance(item, dict):
                yield from _lists_in(
                    item, item_class, (*path, field, index), triggered=triggered or _triggers(item_class)
                )


def _triggers(item_class: type[BaseModel] | None) -> bool:
    return (
        item_class is not None and issubclass(item_class, CallBackBaseConfig) and not item_class.children_need_interval
    )


def id_notes(document: dict[str, Any]) -> Iterator[str]:
    """Yield a note for each callback whose default id is the explicit id of another callback of the list.

    The explicit id wins, and the other callback gets the next free number. An override or a checkpoint that uses the
    name of its kind would address the first callback.

    Args:
        document: The document of a valid spec, which shows which ids are explicit.
    """
    for callbacks in callback_lists(document):
        chosen = {
            item["id"]: index
            for index, item in enumerate(callbacks.items)
            if isinstance(item, dict) and isinstance(item.get("id"), str)
        }
        for index, (item, name) in enumerate(zip(callbacks.items, item_ids(callbacks.items, "callback"), strict=True)):
            usual = default_id(item, "callback")
            if index not in chosen.values() and usual in chosen:
                here, there = (toml_path((*callbacks.path, place)) for place in (index, chosen[usual]))
                yield f"{here}: its id is {quoted(name)}, because {there} has the id {quoted(usual)}"


_LIMITS = ("max_epochs", "max_updates", "max_samples")


def check(document: dict[str, Any]) -> Iterator[Problem]:
    """Yield the problems between the tables of a document."""
    datasets = document.get("datasets", {})
    for callbacks in callback_lists(document):
        yield from _repeated_ids(callbacks)
        for index, (item, item_class) in enumerate(zip(callbacks.items, callbacks.classes, strict=True)):
            path = (*callbacks.path, index)
            if not callbacks.triggered:
                yield from _interval(item, item_class, path)
            if isinstance(item, dict) and isinstance(datasets, dict):
                yield from _dataset_key(item, path, datasets)
    if isinstance(datasets, dict):
        yield from _training_set(document.get("trainer"), datasets)
    yield from _one_limit(document.get("trainer"))
    yield from _one_initializer(document)


def _one_limit(trainer: Any) -> Iterator[Problem]:
    """Yield the problem of several limits, which the config cannot report if its table has other problems."""
    if not isinstance(trainer, dict):
        return
    given = [name for name in _LIMITS if trainer.get(name) is not None]
    if len(given) > 1:  # if there is none, one may be misspelt, which is reported already
        message = f"wrong number of limits: found {' and '.join(given)}, expected exactly one of {', '.join(_LIMITS)}"
        yield Problem("conflicting-keys", ("trainer",), message, at=tuple(("trainer", name) for name in given))


def _one_initializer(document: dict[str, Any]) -> Iterator[Problem]:
    trainer = document.get("trainer")
    if "initializer" in document and isinstance(trainer, dict) and "initializer" in trainer:
        places = (("initializer",), ("trainer", "initializer"))
        message = "found initializer and trainer.initializer, expected one of them"
        yield Problem("conflicting-keys", ("initializer",), message, "remove one of them", at=places)


def _interval(item: Any, config_class: type[BaseModel] | None, path: TomlPath) -> Iterator[Problem]:
    """Yield the problem of a callback without exactly one interval; some classes need none."""
    if config_class is None or not issubclass(config_class, CallBackBaseConfig):
        return
    table = item if isinstance(item, dict) else {}
    fields = config_class.model_fields
    given = [name for name in EVERY if table.get(name, fields[name].default) is not None]
    if len(given) > 1:
        at = tuple((*path, name) for name in given)
        message = f"found {' and '.join(given)}, expected one interval"
        yield Problem("conflicting-keys", path, message, at=at, on_key=True)
    elif not given and config_class.needs_interval:
        message = "no interval, expected one of " + ", ".join(EVERY)
        yield Problem("missing-interval", path, message, "add every_n_epochs = 1")


def _repeated_ids(callbacks: CallbackList) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, item in enumerate(callbacks.items):
        name = item.get("id") if isinstance(item, dict) else None
        if not isinstance(name, str):
            continue
        path = (*callbacks.path, index, "id")
        if not ID.fullmatch(name):
            first_one = ", beginning with a letter, a digit or '_'" if name.startswith((".", "-")) else ""
            expected = f"expected lower-case letters, digits, '.', '_' and '-'{first_one}"
            yield Problem("invalid-id", path, f"found {described(name)}, {expected}")
        elif len(name) > LONGEST_ID:
            message = f"found an id of {len(name)} characters, expected at most {LONGEST_ID}"
            yield Problem("invalid-id", path, message)
        elif name in first:
            other = toml_path((*callbacks.path, first[name]))
            at = (path, (*callbacks.path, first[name], "id"))
            message = f"duplicate id: {other} has the id {quoted(name)} as well"
            yield Problem("duplicate-id", path, message, "choose another id", at=at, labels=("second", "first"))
        first.setdefault(name, index)


def _dataset_key(item: dict[str, Any], path: TomlPath, datasets: dict[str, Any]) -> Iterator[Problem]:
    key = item.get("dataset_key")
    if isinstance(key, str) and key not in datasets:
        known = f"the spec has {listed(datasets)}" if datasets else "the spec has no [datasets]"
        message = f"no data set {quoted(key)}{suggestion(key, datasets)}"
        yield Problem("unknown-dataset", (*path, "dataset_key"), message, known)


def _training_set(trainer: Any, datasets: dict[str, Any]) -> Iterator[Problem]:
    if not isinstance(trainer, dict) or "train" in datasets or any(trainer.get(limit) == 0 for limit in _LIMITS):
        return
    misspelt = nearest("train", datasets)
    hint = f"rename {misspelt!r} to 'train'" if misspelt else "add it, or set max_epochs = 0 to only evaluate"
    yield Problem("missing-training-set", ("datasets",), "no [datasets.train], which training needs", hint)


_ADDED: dict[str, tuple[str, ...]] = {"stack": (), "pad": ("mask",), "concat": ("batch_index",)}
"""Properties that a collator adds to a batch, by kind; those of other collators are unknown."""


def counter_of(spec: RunSpec) -> UpdateCounter | None:
    """Return the counter of a run before its first update; None if its length depends on the size of the data."""
    trainer = spec.trainer
    if trainer.max_epochs is not None:
        return None
    return UpdateCounter(TrainingIteration(0, 0, 0), trainer.end_iteration, 1, trainer.effective_batch_size)


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
