"""`metrics.jsonl`: one record for each boundary, in a file that grows by whole lines."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from noether.checkpoint.durable import storage_error
from noether.errors import StorageError

_ENCODER = json.JSONEncoder(allow_nan=False)
_UPDATE = re.compile(rb'\{"update": (\d+),')


@dataclass(frozen=True, slots=True)
class MetricRecord:
    """All metrics of one boundary, and its place in the training.

    Attributes:
        update: Optimizer updates completed.
        epoch: Epochs completed.
        sample: Samples seen.
        time: Seconds since 1970 (UTC) at which the line was written.
        metrics: Value by metric key.
    """

    update: int
    epoch: int
    sample: int
    time: float
    metrics: Mapping[str, float] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the line, newline included; strict JSON, non-finite numbers as strings.

        The time has a fixed number of digits, so that equal metrics give lines of equal length.
        """
        return (
            f'{{"update": {self.update}, "epoch": {self.epoch}, "sample": {self.sample}, '
            f'"time": {self.time:.3f}, "metrics": {_encode_metrics(self.metrics)}}}\n'
        ).encode()

    @classmethod
    def decode(cls, line: bytes) -> MetricRecord:
        """Read a line back.

        Raises:
            ValueError: if `encode` did not write it.
        """
        try:
            fields = json.loads(line)
            # float() reads "NaN", "Infinity" and "-Infinity" as well as numbers.
            metrics = {key: float(value) for key, value in fields["metrics"].items()}
            return cls(fields["update"], fields["epoch"], fields["sample"], fields["time"], metrics)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a line of a metrics file: {line[:80]!r}") from error


def update_of(line: bytes) -> int:
    """Return the update of a line without parsing all of it, to skip delivered lines cheaply.

    Raises:
        ValueError: if it is not a line of a metrics file.
    """
    match = _UPDATE.match(line)
    return int(match[1]) if match else MetricRecord.decode(line).update


def spell_number(value: float) -> float | str:
    """Return `value` in strict JSON, which has no NaN and no infinities."""
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _encode_metrics(metrics: Mapping[str, float]) -> str:
    try:
        return _ENCODER.encode(metrics)
    except ValueError:  # the encoder found a non-finite number
        return _ENCODER.encode({key: spell_number(value) for key, value in metrics.items()})


class AppendOnlyFile:
    """A file to which whole lines are appended.

    Each `write` is one unbuffered write. A line that could not be written whole is cut off again, and so is one
    that a killed process left behind, when the file is opened. The file is created by the first line.

    Args:
        path: The file; its folder exists.

    Attributes:
        require_own: Raises an error if the run is not that of this process any more; called before the file is opened
            or cut.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.require_own: Callable[[], object] = _always_own
        self.offset = _end_of_last_line(path)
        self._file: BinaryIO | None = None

    def write(self, lines: bytes) -> None:
        """Write one or more lines, newlines included: all of them, or none if that fails.

        Raises:
            StorageError: if the disk is full or refuses; the lines before stay as they were.
        """
        try:
            file = self._open()
            written = 0
            while written < len(lines):  # a nearly full disk takes part of a line before it refuses
                written += file.write(lines[written:])
        except OSError as error:
            self._cut_back()
            raise storage_error(error, self.path, needed=len(lines)) from error
        self.offset += len(lines)

    def truncate(self, offset: int) -> None:
        """Cut off everything after the first `offset` bytes.

        Raises:
            StorageError: if the file is shorter, so that the offset is that of another file; or if the disk refuses.
        """
        if offset > self.offset:
            raise StorageError(
                f"{self.path} is shorter than its checkpoint says: found {self.offset} bytes, expected {offset}",
                hint="restore the file from a backup, or start a new run from the checkpoint's weights",
            )
        if offset < self.offset:
            self.require_own()
            try:
                os.truncate(self.path, offset)
            except OSError as error:
                raise storage_error(error, self.path) from error
            self.offset = offset

    def sync(self) -> None:
        """Wait until everything written is on the disk.

        Raises:
            StorageError: if the disk refuses; lines written since the last `sync` may be lost, and another `sync`
                would not report it.
        """
        if self._file is not None:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                raise storage_error(error, self.path) from error

    def lines(self) -> Iterator[bytes]:
        """Yield the complete lines of the file; one that is still being written is left out."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line

    def close(self) -> None:
        """Close the file; a later `append` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> BinaryIO:
        if self._file is None:
            self.require_own()
            self._file = self.path.open("ab", buffering=0)
            if os.fstat(self._file.fileno()).st_size > self.offset:
                self._file.truncate(self.offset)
        return self._file

    def _cut_back(self) -> None:
        """Cut a torn line off; if that fails, opening the file does it."""
        if self._file is not None:
            try:
                self._file.truncate(self.offset)
            except OSError:
                self.close()


def _always_own() -> None:
    """Take a run for that of this process."""


def _end_of_last_line(path: Path) -> int:
    """Return how many bytes of the file are complete lines; it may end in a torn one."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0


class MetricsFile(AppendOnlyFile):
    """A run's `metrics.jsonl`: one `MetricRecord` a line."""

    def append(self, record: MetricRecord) -> None:
        """Write the metrics of one boundary.

        Raises:
            StorageError: if the disk is full or refuses; the lines before stay valid.
        """
        self.write(record.encode())

    def read(self) -> Iterator[MetricRecord]:
        """Yield the records of the file, without a torn last line.

        Raises:
            StorageError: if another line is damaged; names it.
        """
        for number, line in enumerate(self.lines(), start=1):
            try:
                yield MetricRecord.decode(line)
            except ValueError as error:
                raise StorageError(f"{self.path}:{number}: {error}") from error
