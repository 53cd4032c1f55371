"""Decide from the arrays of a data file what a first spec predicts, and from what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from noether.errors import UsageError
from noether.kernel.names import did_you_mean
from noether.spec.scaffold import Content

TARGET = "_target"
_LEAST_SAMPLES = 5
_TEST_FRACTION = 0.2


@dataclass(frozen=True)
class Property:
    """What is known of one array of a data file.

    Attributes:
        shape: Shape of one sample's part of it; `()` for one number.
        type: `float`, `int` or `bool`.
        classes: One more than the largest value, where it holds one integer a sample, from 0 on.
    """

    shape: tuple[int, ...]
    type: type[float] | type[int] | type[bool]
    classes: int | None = None

    def __str__(self) -> str:
        dimensions = ", ".join(map(str, (*self.shape, "")) if len(self.shape) == 1 else map(str, self.shape))
        return f"{self.type.__name__}, shape ({dimensions.strip()})"


def content_of_file(
    file: str,
    path: str,
    samples: int,
    properties: Mapping[str, Property],
    inputs: Sequence[str] = (),
    targets: Sequence[str] = (),
) -> Content:
    """Return what a spec for a data file is about.

    Args:
        file: The file, for messages and comments.
        path: The same as the spec names it.
        samples: How many samples are in it.
        properties: What it holds.
        inputs: What to predict from; without any, every array of real numbers that is no target.
        targets: What to predict; without any, what ends in `_target`.

    Raises:
        UsageError: The file lacks a name, or holds nothing to predict, or to predict from.
    """
    if samples < _LEAST_SAMPLES:
        raise UsageError(f"{file} holds {samples} samples, too few to train and to test on")
    _check_names(file, properties, (*inputs, *targets))
    targets = targets or [name for name in properties if name.endswith(TARGET)]
    if not targets:
        raise UsageError(
            f"no array of {file} ends in {TARGET}; it holds {_listed(properties)}", hint="name one with --targets"
        )
    inputs = inputs or [name for name in properties if name not in targets and properties[name].type is float]
    if not inputs:
        raise UsageError(f"{file} holds no real numbers to predict from; it holds {_listed(properties)}")
    for name in inputs:
        if properties[name].type is not float:
            raise UsageError(f"{name} holds {properties[name]}; a model takes real numbers")
    fields = {name: name.removesuffix(TARGET) or name for name in targets}
    classes = _classes(properties, fields)
    return Content(
        dataset=_dataset(path, properties, inputs, fields),
        train_samples=samples - round(_TEST_FRACTION * samples),
        inputs=inputs,
        fields=list(fields.values()),
        classes=classes,
        normalized=_normalized(properties, inputs, {} if classes else fields),
        notes=[f"{file} holds {samples} samples of", *_described(properties, inputs, targets)],
    )


def _check_names(file: str, properties: Mapping[str, Property], names: Iterable[str]) -> None:
    for name in names:
        if name not in properties:
            raise UsageError(
                f"{file} holds no {name!r}.{did_you_mean(name, properties)}", hint=f"it holds {_listed(properties)}"
            )


def _classes(properties: Mapping[str, Property], fields: Mapping[str, str]) -> dict[str, int]:
    """Return the number of classes by field; none where the targets are real numbers."""
    kinds = {name: properties[name] for name in fields}
    if all(found.type is float for found in kinds.values()):
        return {}
    for name, found in kinds.items():
        if found.type is not float and found.classes is None:
            raise UsageError(
                f"{name} holds {found}; expected real numbers, or one integer from 0 on for each sample: its class",
                hint="convert it, or name other targets with --targets",
            )
    if any(found.type is float for found in kinds.values()):
        raise UsageError(
            f"the targets {', '.join(kinds)} are classes and real numbers, which one loss cannot compare",
            hint=f"name those of one sort with --targets, such as --targets {next(iter(kinds))}",
        )
    return {fields[name]: found.classes for name, found in kinds.items() if found.classes is not None}


def _dataset(
    path: str, properties: Mapping[str, Property], inputs: Sequence[str], fields: Mapping[str, str]
) -> dict[str, object]:
    used = {**{name: name for name in inputs}, **{f"{new}{TARGET}": name for name, new in fields.items()}}
    as_it_is = {name: name for name in properties}
    return {"kind": "file", "path": path} | ({} if used == as_it_is else {"properties": used})


def _normalized(
    properties: Mapping[str, Property], inputs: Iterable[str], fields: Mapping[str, str]
) -> dict[str, list[str]]:
    """Return what to normalise, by what has statistics of its own: a component, or a channel of an image."""
    names = {**{name: name for name in inputs}, **{name: f"{field}{TARGET}" for name, field in fields.items()}}
    result: dict[str, list[str]] = {}
    for name, renamed in names.items():
        per = "channel" if len(properties[name].shape) > 2 else "component"
        result.setdefault(per, []).append(renamed)
    return result


def _described(properties: Mapping[str, Property], inputs: Sequence[str], targets: Sequence[str]) -> list[str]:
    width = max(map(len, properties))
    roles = {**dict.fromkeys(inputs, "input"), **dict.fromkeys(targets, "target")}
    return [f"  {name.ljust(width)}  {roles.get(name, 'not used')}: {found}" for name, found in properties.items()]


def _listed(properties: Mapping[str, Property]) -> str:
    return ", ".join(f"{name} ({found})" for name, found in properties.items())
