"""Curves of a run: `metrics.jsonl` in one pass, thinned so that extremes stay."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noether.checkpoint.paths import PathProvider
from noether.kernel.names import has_control
from noether.metrics.metrics_file import lines_of

Numbers = NDArray[np.float64]
MOST_KEYS = 400
"""Metric keys with a curve; each holds at most `_FULL` points while the file is read."""
CLOCK_ROWS = 1500
_FULL = 1 << 15
_BATCH_BYTES = 1 << 20
_LIMITS = np.array([1 << 53, 1 << 53, 1 << 53, 1 << 36])  # of update, epoch, sample; and the year 4147
_DAMAGED = (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError)

_PLACE, _METRICS = itemgetter("update", "epoch", "sample", "time"), itemgetter("metrics")


def kept_places(value: Numbers, most: int) -> NDArray[np.intp]:
    """Return the places of the points that stay of a curve, in order: all of them, if there are at most `most`.

    Otherwise those that stay are the first and the last point, of each of equally large buckets the lowest and the
    highest finite value, and its first value that is not finite, which is a gap.

    Args:
        value: The values of the curve.
        most: Most points to keep, at least 5.
    """
    count = len(value)
    if count <= most:
        return np.arange(count)
    size = -(-count // ((most - 2) // 3))
    buckets = -(-count // size)
    padded = np.full(buckets * size, np.nan)
    padded[:count] = value
    table = padded.reshape(buckets, size)
    is_finite, starts = np.isfinite(table), np.arange(buckets) * size
    lowest = starts + np.where(is_finite, table, np.inf).argmin(axis=1)
    highest = starts + np.where(is_finite, table, -np.inf).argmax(axis=1)
    has_values = is_finite.any(axis=1)
    gaps = starts + is_finite.argmin(axis=1)
    gaps = gaps[~is_finite.all(axis=1) & (gaps < count)]
    ends = np.array([0, count - 1])
    return np.unique(np.concatenate([lowest[has_values], highest[has_values], gaps, ends]))


@dataclass
class Curve:
    """The values of one metric key, thinned whenever there are many.

    Attributes:
        points: Number of values in the file.
        non_finite: Number of those that are NaN or infinite.
        total: Sum of the finite ones.
    """

    points: int = 0
    non_finite: int = 0
    total: float = 0.0
    _chunks: list[tuple[Numbers, Numbers]] = field(default_factory=list)
    _held: int = 0

    def add(self, update: Numbers, value: Numbers) -> None:
        """Append values."""
        finite = value[np.isfinite(value)]
        self.points += len(value)
        self.non_finite += len(value) - len(finite)
        with np.errstate(over="ignore"):
            self.total += float(finite.sum())
        self._chunks.append((update, value))
        self._held += len(value)
        if self._held > _FULL:
            self._chunks = [self.thinned(_FULL // 2)]
            self._held = len(self._chunks[0][0])

    def thinned(self, most: int) -> tuple[Numbers, Numbers]:
        """Return the updates and values of at most `most` points, see `kept_places`."""
        update, value = (np.concatenate(parts) for parts in zip(*self._chunks, strict=True))
        places = kept_places(value, most)
        return update[places], value[places]

    @property
    def mean(self) -> float:
        """Mean of the finite values; NaN if there are none."""
        finite = self.points - self.non_finite
        return self.total / finite if finite else math.nan

    @property
    def last(self) -> tuple[float, float]:
        """Update and value of the last point."""
        update, value = self._chunks[-1]
        return float(update[-1]), float(value[-1])


@dataclass
class Clock:
    """Samples and seconds by update, and the updates at which epochs end; thinned as curves are.

    Attributes:
        rows: Update, sample and time of lines.
        epochs: Update and epoch of the first line of each epoch.
    """

    rows: Numbers = field(default_factory=lambda: np.empty((0, 3)))
    epochs: Numbers = field(default_factory=lambda: np.empty((0, 2)))

    def add(self, places: Numbers) -> None:
        """Append update, epoch, sample and time of lines."""
        self.rows = np.concatenate([self.rows, places[:, [0, 2, 3]]])
        self.epochs = np.concatenate([self.epochs, places[:, :2]])
        self.epochs = self.epochs[np.diff(self.epochs[:, 1], prepend=-1.0) != 0]
        if len(self.rows) > 2 * _FULL:
            self.thin(_FULL)

    def thin(self, most: int) -> None:
        """Keep rows at equal distances, and both sides of the longest pauses."""
        if (count := len(self.rows)) > most:
            spread = np.linspace(0, count - 1, most * 3 // 4).astype(np.intp)
            pauses = np.argsort(np.diff(self.rows[:, 2]))[-(most // 8) :]
            self.rows = self.rows[np.unique(np.concatenate([spread, pauses, pauses + 1]))]
        if (count := len(self.epochs)) > most:
            self.epochs = self.epochs[np.linspace(0, count - 1, most).astype(np.intp)]


@dataclass
class Curves:
    """Everything that `metrics.jsonl` of a run holds.

    Attributes:
        by_key: The curves in the order in which their keys appear.
        clock: Samples, seconds and epochs by update.
        lines: Lines that were read.
        damaged: Lines that cannot be read; they are left out.
        left_out: Keys beyond `MOST_KEYS`.
    """

    by_key: dict[str, Curve] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)
    lines: int = 0
    damaged: int = 0
    left_out: set[str] = field(default_factory=set)

    def add(self, rows: list[Any]) -> None:
        """Add lines; those that are not lines of a metrics file are counted as damaged."""
        try:
            self._add(rows)
        except _DAMAGED:
            if len(rows) == 1:
                self.damaged += 1
                return
            for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
                self.add(half)

    def _add(self, rows: list[Any]) -> None:
        """Add lines, or nothing: those with the same keys become one table of numbers."""
        places = _table(map(_PLACE, rows), len(rows), 4)
        if not ((places >= 0) & (places < _LIMITS)).all():
            raise ValueError("a counter is out of range")
        metrics = list(map(_METRICS, rows))
        lines_by_keys: dict[tuple[str, ...], list[int]] = {}
        for line, keys in enumerate(map(tuple, metrics)):
            lines_by_keys.setdefault(keys, []).append(line)
        columns: dict[str, list[tuple[list[int], Numbers]]] = {}
        for keys, lines in lines_by_keys.items():
            if any(map(has_control, keys)):
                raise ValueError("a metric key has control characters")
            table = _table((metrics[line].values() for line in lines), len(lines), len(keys))
            for place, key in enumerate(keys):
                columns.setdefault(key, []).append((lines, table[:, place]))
        for key, parts in columns.items():
            if (curve := self.by_key.get(key) or self._begun(key)) is not None:
                curve.add(*_in_order(places[:, 0], parts))
        self.clock.add(places)

    def _begun(self, key: str) -> Curve | None:
        """Return the curve of a new key; None if there are too many."""
        if len(self.by_key) < MOST_KEYS:
            return self.by_key.setdefault(key, Curve())
        if len(self.left_out) < 100 * MOST_KEYS:
            self.left_out.add(key)
        return None


def read_curves(paths: PathProvider) -> Curves:
    """Read the metrics of a run, which may still go on.

    Raises:
        StorageError: if a line is longer than any that Noether writes.
        OSError: if the file cannot be read, or a part of its path is a link.
    """
    curves = Curves()
    for batch in _batches(lines_of(paths.run_path, paths.metrics_path)):
        curves.lines += len(batch)
        curves.add(_parsed(batch))
    curves.clock.thin(CLOCK_ROWS)
    return curves


def _in_order(update: Numbers, parts: list[tuple[list[int], Numbers]]) -> tuple[Numbers, Numbers]:
    """Return the updates and values of a metric that lines with different keys hold, in the order of the lines."""
    lines = np.concatenate([np.asarray(numbers) for numbers, _ in parts])
    values = np.concatenate([column for _, column in parts])
    order = np.argsort(lines, kind="stable")
    return update[lines[order]], values[order]


def _table(rows: Iterable[Iterable[Any]], count: int, width: int) -> Numbers:
    """Return rows of numbers, `"NaN"` and the infinities among them; raises one of `_DAMAGED` for anything else."""
    return np.fromiter(chain.from_iterable(rows), dtype=float, count=count * width).reshape(count, width)


def _batches(lines: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Yield lines in lists of about a megabyte: parsing one text is faster than parsing each of its lines."""
    batch: list[bytes] = []
    size = 0
    for line in lines:
        batch.append(line)
        size += len(line)
        if size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _parsed(batch: list[bytes]) -> list[Any]:
    """Return the JSON of each line; None for one that has none."""
    is_enabled = gc.isenabled()
    gc.disable()  # the collector would look at thousands of new dicts again and again, in a third of the time
    try:
        found = json.loads(b"[" + b",".join(batch) + b"]")
        if len(found) == len(batch):
            return list(found)
    except _DAMAGED:
        pass
    finally:
        if is_enabled:
            gc.enable()
    return [_alone(line) for line in batch]


def _alone(line: bytes) -> Any:
    try:
        return json.loads(line)
    except _DAMAGED:
        return None
