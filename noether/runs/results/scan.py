"""One pass over `metrics.jsonl`: the last value of each metric, and the best and last values of the evaluations.

A run of a million updates has a file of about 600 MB, in which few lines hold an evaluation. The search is done on
bytes: only lines with a key that was not met before, or with one of an evaluation, are parsed, and those that hold the
last values of a chunk.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from os import fdopen
from typing import BinaryIO, NamedTuple

from noether.checkpoint.paths import PathProvider
from noether.checkpoint.untrusted import open_inside
from noether.config.metric_facts import is_evaluation
from noether.errors import StorageError
from noether.kernel.names import has_control
from noether.metrics.metrics_file import spell_number

_CHUNK = 1 << 20  # bytes
_LONGEST = 256 << 20  # bytes of a line, as in `MetricsFile`
_MOST_KEYS = 10_000  # a file with more has no metrics of a training, and would fill the memory
_COUNTERS = ("update", "epoch", "sample")
_HEAD = rb'update": \d+, "epoch"|epoch": \d+, "sample"|sample": \d+, "time"|time": [\d.]+, "metrics"|metrics": \{'
"""The keys of a line beside its metrics, whose values have a decimal point if they are numbers."""


@dataclass(slots=True)
class Series:
    """Last and extreme values of one evaluation metric; an extreme value is that of the first update that has it."""

    final: float = math.nan
    final_update: int = 0
    final_epoch: int = 0
    lowest: tuple[float, int, int] | None = None
    highest: tuple[float, int, int] | None = None

    def add(self, value: float, update: int, epoch: int) -> None:
        """Take the next value."""
        self.final, self.final_update, self.final_epoch = value, update, epoch
        if self.lowest is None or value < self.lowest[0]:
            self.lowest = self.lowest if math.isnan(value) else (value, update, epoch)
        if self.highest is None or value > self.highest[0]:
            self.highest = self.highest if math.isnan(value) else (value, update, epoch)


@dataclass
class Scan:
    """Content of a metrics file.

    Attributes:
        metrics: The last value of each metric key, in the order in which the keys came.
        series: Values of the evaluation metrics.
        update: Update of the last line; epoch, sample and time are of this line as well.
        damaged: Complete lines that do not begin and end as those of a metrics file do.
        is_cut: True if the file does not end with a complete line, as while one is written, and after a kill.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)
    update: int = 0
    epoch: int = 0
    sample: int = 0
    time: float | None = None
    damaged: int = 0
    is_cut: bool = False


def scan_metrics(paths: PathProvider) -> Scan:
    """Read the metrics of a run; damaged lines, and one that is being written, are left out.

    Raises:
        StorageError: if the file is damaged as a whole: a line or the number of keys is beyond all limits.
        OSError: if it cannot be read, or is a link.
    """
    reader = _Reader(paths)
    try:
        file = fdopen(open_inside(paths.run_path, paths.metrics_path), "rb")
    except (FileNotFoundError, NotADirectoryError):
        return reader.scan
    with file:
        for chunk in _chunks(file, reader):
            reader.read(chunk)
    return reader.scan


def _chunks(file: BinaryIO, reader: _Reader) -> Iterator[bytes]:
    """Yield the complete lines of a file, many at once."""
    while chunk := file.read(_CHUNK):
        if not chunk.endswith(b"\n"):
            rest = file.readline(_LONGEST)
            if len(rest) == _LONGEST:
                raise reader.too_much(f"a line of more than {_LONGEST} bytes, expected shorter ones")
            chunk += rest
            if not rest.endswith(b"\n"):
                reader.scan.is_cut = True
                chunk = chunk[: chunk.rfind(b"\n") + 1]
        yield chunk


class _Reader:
    def __init__(self, paths: PathProvider) -> None:
        self.paths = paths
        self.scan = Scan()
        self._plain: dict[str, bytes] = {}  # keys of no evaluation, as they are found in a line
        self._wanted = _pattern(())

    def too_much(self, found: str) -> StorageError:
        return StorageError(f"{self.paths.metrics_path} is damaged: found {found}", hint="restore it from a backup")

    def read(self, chunk: bytes) -> None:
        """Take the next lines."""
        lines, heads, tails = chunk.count(b"\n"), chunk.count(b'{"update": '), chunk.count(b"}}\n")
        self.scan.damaged += max(abs(lines - heads), lines - tails)
        place = 0
        while (match := self._wanted.search(chunk, place)) is not None:
            start = chunk.rfind(b"\n", 0, match.start()) + 1
            place = chunk.index(b"\n", start) + 1
            if (record := self._record(chunk[start:place])) is not None:
                self._take(record)
        self._take_last(chunk)

    def _take(self, record: _Record) -> None:
        """Take the evaluations of a line, and its keys."""
        known = len(self._plain)
        for key, value in record.metrics.items():
            number = self.scan.metrics[key] = float(value)
            if (series := self.scan.series.get(key)) is not None:
                series.add(number, record.update, record.epoch)
            elif key not in self._plain:
                if is_evaluation(key):
                    self.scan.series[key] = Series()
                    self.scan.series[key].add(number, record.update, record.epoch)
                else:
                    self._plain[key] = json.dumps(key).encode()
        if len(self._plain) != known:
            self._wanted = _pattern(self._plain.values())
        if len(self.scan.metrics) > _MOST_KEYS:
            raise self.too_much(f"more than {_MOST_KEYS} metric keys, expected fewer")

    def _take_last(self, chunk: bytes) -> None:
        """Take the counters of the last line, and the last values of all metrics that are not evaluations."""
        parsed: dict[int, _Record | None] = {}
        if (record := self._last(chunk, b'{"update"', parsed)) is not None:
            self.scan.update, self.scan.epoch, self.scan.sample = record.update, record.epoch, record.sample
            self.scan.time = record.time
        for key, text in self._plain.items():
            if (record := self._last(chunk, text, parsed, key)) is not None:
                self.scan.metrics[key] = float(record.metrics[key])

    def _last(self, chunk: bytes, text: bytes, parsed: dict[int, _Record | None], key: str = "") -> _Record | None:
        """Return the last record whose line holds a text, and a key if one is given; None if there is none."""
        end = len(chunk)
        while (found := chunk.rfind(text, 0, end)) >= 0:
            end = chunk.rfind(b"\n", 0, found) + 1
            if end not in parsed:
                parsed[end] = self._record(chunk[end : chunk.index(b"\n", found) + 1])
            if (record := parsed[end]) is not None and (not key or key in record.metrics):
                return record
        return None

    def _record(self, line: bytes) -> _Record | None:
        """Return a line of the file; None if it is damaged."""
        try:
            fields = json.loads(line)
            record = _Record(*(fields[name] for name in (*_COUNTERS, "time", "metrics")))
            if not type(record.update) is type(record.epoch) is type(record.sample) is int:
                return None
            for key, value in record.metrics.items():
                if type(value) is not float and spell_number(float(value)) != value:
                    return None
                if key not in self.scan.metrics and has_control(key):
                    return None
            return record if float(record.time) >= 0 else None
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
            return None


class _Record(NamedTuple):
    """A line of the file; `MetricRecord` checks more, and takes four times as long."""

    update: int
    epoch: int
    sample: int
    time: float
    metrics: dict[str, float | str]


def _pattern(known: Iterable[bytes]) -> re.Pattern[bytes]:
    """Return the pattern of the beginning of a key that is not one of the known ones.

    Keys with a common first part stand together, since the alternatives are tried one after another. The end of a key
    or of a text may match as well; then a line is parsed for nothing.
    """
    by_part: dict[bytes, list[bytes]] = defaultdict(list)
    for text in known:
        part, slash, rest = text[1:].partition(b"/")
        by_part[part + slash].append(re.escape(rest))
    keys = [re.escape(part) + b"(?:" + b"|".join(rests) + b")" for part, rests in by_part.items()]
    return re.compile(b'"(?!: |' + b"|".join([_HEAD, *keys]) + b")")
