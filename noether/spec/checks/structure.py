"""Checks between the tables of a document: intervals, ids, and data sets that callbacks and training need.

The checks read the document instead of the validated spec, so that their problems are shown together with those
of validation. Malformed values are left to validation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel

from noether.config.components import CallBackBaseConfig
from noether.config.discriminated import Discriminated
from noether.kernel.names import nearest
from noether.kernel.progress import EVERY
from noether.spec.describe.fields import ID, LONGEST_ID, class_of, default_id, item_ids, lists_of_role
from noether.spec.errors.problem import Problem
from noether.spec.errors.words import described, listed, quoted, suggestion, toml_path
from noether.spec.locate import TomlPath

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
