"""DatasetFacts: counts, ranges, distributions, classes and some samples of a data set, from a bounded part of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noether.data.collators import properties_of
from noether.data.container import DataContainer
from noether.data.dataset import AnyDataset, called, gathering, length_of
from noether.data.fetch import FetchSamples, fetch_of, usable
from noether.data.randomness import EVALUATION_EPOCH

BINS = 24
_KEPT = 2_000_000  # numbers of a property kept for its sketch
_COMPONENTS = 16  # a vector of at most this many entries has facts of each
_CLASSES = 50
_SHOWN, _PICTURES = 3, 8
_TEXT = 60  # characters of a value of a sample


@dataclass
class PropertyFacts:
    """Facts of a property, or of one of its components, over the samples that were read.

    Attributes:
        name: Property, with the component if it is a vector: `points[0]`, or the column of the file.
        dtype: Type of its values: that of the tensor, or the Python type.
        shapes: Smallest and largest shape of a sample; None for values that are not numbers.
        count: Finite numbers, or values that are not numbers.
        mean: Mean of the finite numbers.
        deviation: Standard deviation of the finite numbers.
        low: Smallest finite number.
        high: Largest finite number.
        nans: NaN, which mean missing values.
        infinities: Infinite numbers.
        classes: Samples of each value, if they are texts or few different whole numbers.
        sketch: Numbers in each of 24 equal parts between `low` and `high`.
    """

    name: str
    dtype: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    count: int = 0
    mean: float = 0.0
    deviation: float = 0.0
    low: float | None = None
    high: float | None = None
    nans: int = 0
    infinities: int = 0
    classes: dict[str, int] | None = None
    sketch: list[int] = field(default_factory=list)

    @property
    def is_constant(self) -> bool:
        """True if several values were read, and all are the same."""
        if self.classes is not None:
            return self.count > 1 and len(self.classes) == 1
        return self.count > 1 and self.low == self.high


@dataclass
class DatasetFacts:
    """Facts of a data set.

    Attributes:
        key: Its key in the spec.
        kind: Its kind.
        samples: Samples that it has.
        read: Samples that the facts are of, spread evenly over it.
        seconds: Time that it took to read them.
        properties: Facts by property and component.
        examples: Some samples, with their values in words.
        pictures: Properties that are pictures, the first of them as arrays of height, width and channel from 0 to 1.
    """

    key: str
    kind: str
    samples: int
    read: int = 0
    seconds: float = 0.0
    properties: list[PropertyFacts] = field(default_factory=list)
    examples: list[dict[str, str]] = field(default_factory=list)
    pictures: dict[str, list[np.ndarray]] = field(default_factory=dict)


class _Collected:
    """Numbers of one property, batch by batch."""

    def __init__(self, name: str, dtype: str, keep: int) -> None:
        self.facts = PropertyFacts(name, dtype)
        self.keep = max(16, keep)
        self.kept: list[np.ndarray] = []
        self.squares = 0.0
        self.values: Counter[str] | None = Counter()

    def add_shape(self, shape: tuple[int, ...]) -> None:
        """Take in the shape of a sample."""
        low, high = self.facts.shapes or (shape, shape)
        self.facts.shapes = min(low, shape), max(high, shape)

    def add(self, values: np.ndarray, samples: int) -> None:
        """Take in numbers of some samples."""
        facts, numbers = self.facts, values.astype(np.float64).reshape(-1)
        facts.nans += int(np.isnan(numbers).sum())
        facts.infinities += int(np.isinf(numbers).sum())
        if self.values is not None:
            is_class = values.dtype.kind in "biu" and numbers.size == samples
            self.values.update(map(str, values.reshape(-1).tolist()) if is_class else ())
            self.values = self.values if is_class and len(self.values) <= _CLASSES else None
        numbers = numbers[np.isfinite(numbers)]
        if not numbers.size:
            return
        mean, total = float(numbers.mean()), facts.count + numbers.size
        between = (mean - facts.mean) ** 2 * facts.count * numbers.size / total
        self.squares += float(((numbers - mean) ** 2).sum()) + between
        facts.mean += (mean - facts.mean) * numbers.size / total
        facts.count = total
        low, high = float(numbers.min()), float(numbers.max())
        facts.low = low if facts.low is None else min(low, facts.low)
        facts.high = high if facts.high is None else max(high, facts.high)
        self.kept.append(numbers[:: -(-numbers.size // (self.keep * samples))].astype(np.float32))

    def add_others(self, values: Sequence[Any]) -> None:
        """Take in values that are not numbers."""
        self.facts.count += len(values)
        if self.values is not None:
            self.values.update(_short(value) for value in values)
            self.values = self.values if len(self.values) <= 10 * _CLASSES else None

    def finished(self) -> PropertyFacts:
        """Return the facts."""
        facts = self.facts
        facts.deviation = (self.squares / facts.count) ** 0.5 if facts.count else 0.0
        facts.classes = dict(self.values.most_common()) if self.values else None
        if self.kept and facts.low is not None and facts.high is not None and np.isfinite(facts.high - facts.low):
            span = (facts.low, facts.high) if facts.high > facts.low else (facts.low - 0.5, facts.low + 0.5)
            places = (np.concatenate(self.kept).astype(np.float64) - span[0]) / (span[1] - span[0]) * BINS
            sketched = np.clip(places.astype(np.int64), 0, BINS - 1)
            facts.sketch = np.bincount(sketched, minlength=BINS).tolist()
        return facts


def facts_of(
    data: DataContainer, key: str, *, raw: bool = False, limit: int = 10_000, seconds: float = 30.0
) -> DatasetFacts:
    """Return the facts of a data set.

    Args:
        data: The data of a run.
        key: Key of the data set.
        raw: Read the samples before their transforms.
        limit: Most samples to read, spread evenly over the data set.
        seconds: Time after which no more samples are read.

    Raises:
        DataError: if the data set cannot be built or read.
    """
    with usable(key, data.timeout):
        dataset = data.before_transforms(key) if raw else data.get_dataset(key)
        samples = length_of(dataset)
        found = DatasetFacts(key, called(dataset), samples)
        indices = torch.linspace(0, samples - 1, min(limit, samples), dtype=torch.float64).long()
        collected: dict[str, _Collected] = {}
        columns, keep = _columns(dataset), _KEPT // max(1, len(indices))
        start = time.monotonic()
        for batch, size in _batches(dataset, indices, data.seed):
            for name, values in batch.items():
                _take_in(found, collected, columns, name, values, size, keep)
            found.read += size
            if time.monotonic() - start > seconds:
                break
        found.seconds = time.monotonic() - start
        found.properties = [_with_names(dataset, each.finished()) for each in collected.values()]
        return found


def _with_names(dataset: AnyDataset, facts: PropertyFacts) -> PropertyFacts:
    """Return facts with the names of classes in place of their numbers, if the data set knows them."""
    class_names = getattr(getattr(dataset, "config", None), "class_names", None)
    names = class_names(facts.name) if facts.classes and class_names is not None else None
    if facts.classes and names and all(value.isdigit() and int(value) < len(names) for value in facts.classes):
        facts.classes = {names[int(value)]: count for value, count in facts.classes.items()}
    return facts


def _columns(dataset: AnyDataset) -> Mapping[str, Any]:
    named = getattr(getattr(dataset, "config", None), "properties", None)
    return named if isinstance(named, Mapping) else {}


def _batches(dataset: AnyDataset, indices: Tensor, seed: int) -> Iterator[tuple[Mapping[str, Any], int]]:
    """Yield samples with a leading dimension: whole batches, or one sample at a time, which may differ in shape."""
    if gathering(dataset) is not None and getattr(dataset, "deterministic", False):
        fetch = fetch_of(dataset, seed)
        for part in [indices[:1], *torch.split(indices[1:], 256)]:
            if len(part):
                yield fetch(part, EVALUATION_EPOCH), len(part)
        return
    is_same = bool(getattr(dataset, "deterministic", False))
    one = FetchSamples(dataset, lambda samples: properties_of(samples[0]), called(dataset), None if is_same else seed)
    for index in indices:
        sample = one(index.reshape(1), EVALUATION_EPOCH)
        yield {name: _with_batch_dimension(value) for name, value in sample.items()}, 1


def _with_batch_dimension(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.unsqueeze(0)
    is_number = isinstance(value, bool | int | float | np.generic | np.ndarray) or hasattr(value, "__array__")
    return np.asarray(value)[None] if is_number else [value]


def _take_in(
    found: DatasetFacts,
    collected: dict[str, _Collected],
    columns: Mapping[str, Any],
    name: str,
    values: Any,
    samples: int,
    keep: int,
) -> None:
    """Take in a property of some samples, with the first of them as examples and pictures."""
    is_number = _is_number(values)
    rows = _as_array(values) if is_number else values
    for place in range(min(samples, _SHOWN - found.read)):
        while len(found.examples) <= found.read + place:
            found.examples.append({})
        found.examples[found.read + place][name] = _short(rows[place])
    if not is_number:
        one = collected.setdefault(name, _Collected(name, type(values[0]).__name__ if len(values) else "", keep))
        one.add_others(list(values))
        return
    dtype = str(values.dtype).removeprefix("torch.")
    for row in rows[: _PICTURES - len(found.pictures.get(name, []))]:
        if (picture := _picture(row)) is not None:
            found.pictures.setdefault(name, []).append(picture)
    given = columns.get(name)
    is_vector = rows.ndim == 2 and 1 < rows.shape[1] <= _COMPONENTS and (name not in collected)
    for place in range(rows.shape[1] if is_vector else 0):
        names = given if isinstance(given, list) and len(given) == rows.shape[1] else range(rows.shape[1])
        label = f"{name}[{names[place]}]"
        one = collected.setdefault(label, _Collected(label, dtype, keep))
        one.add_shape(())
        one.add(rows[:, place], samples)
    if not is_vector:
        one = collected.setdefault(name, _Collected(name, dtype, keep))
        one.add_shape(tuple(rows.shape[1:]))
        one.add(rows, samples)


def _is_number(values: Any) -> bool:
    """Return True for arrays of real numbers."""
    if isinstance(values, Tensor):
        return not values.is_complex() and values.layout is torch.strided
    return isinstance(values, np.ndarray) and values.dtype.kind in "biuf"


def _as_array(values: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()
    return values


def _picture(values: np.ndarray) -> np.ndarray | None:
    """Return a picture as height, width and channels from 0 to 1, its own range stretched; None for other values."""
    if values.ndim == 2 and min(values.shape) >= 8:
        values = values[None]
    if values.ndim != 3 or not np.isfinite(values).all():
        return None
    if values.shape[0] not in (1, 3, 4):
        values = values.transpose(2, 0, 1)
    if values.shape[0] not in (1, 3, 4) or min(values.shape[1:]) < 8:
        return None
    shown = values[:3].transpose(1, 2, 0).astype(np.float64)
    low, high = shown.min(), shown.max()
    return np.repeat((shown - low) / (high - low or 1.0), 3 if shown.shape[2] == 1 else 1, axis=2)


def _short(value: Any) -> str:
    """Return a value in words that fit a line."""
    if isinstance(value, Tensor) and _is_number(value):
        value = _as_array(value)
    if isinstance(value, np.ndarray):
        numbers = [f"{number:.4g}" for number in value.reshape(-1)[:6].tolist()] if value.dtype.kind in "biuf" else []
        more = ", …" if value.size > len(numbers) else ""
        return numbers[0] if value.ndim == 0 and numbers else f"[{', '.join(numbers)}{more}]"
    text = " ".join(str(value).split())
    return text if len(text) <= _TEXT else f"{text[: _TEXT - 1]}…"
