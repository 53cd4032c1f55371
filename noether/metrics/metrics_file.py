"""`metrics.jsonl`: one record a boundary, in a file that only grows by whole lines."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from noether.checkpoint.durable import storage_error
from noether.errors import StorageError


class AppendOnlyFile:
    """Appends lines to `path` so that what is in the file is complete at every moment.

    Each line is one unbuffered write. A line that could not be written whole is cut off again, and so is one
    that a killed process left behind, when the file is opened. The file is created by the first line.

    Args:
        path: The file; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = _end_of_last_line(path)
        self._file: BinaryIO | None = None

    def append(self, line: bytes) -> None:
        """Write one line, newline included.

        Raises:
            StorageError: If the disk is full or refuses; the lines before stay as they were.
        """
        try:
            file = self._open()
            written = 0
            while written < len(line):  # a nearly full disk takes part of a line before it refuses
                written += file.write(line[written:])
        except OSError as error:
            self._cut_back()
            raise storage_error(error, self.path, needed=len(line)) from error
        self.offset += len(line)

    def truncate(self, offset: int) -> None:
        """Forget everything after the first `offset` bytes, as a resume does.

        Raises:
            StorageError: If the file is shorter than that, so it is not the file that the offset was taken from; or
                the disk refuses.
        """
        if offset > self.offset:
            raise StorageError(
                f"{self.path} holds {self.offset} bytes, but the checkpoint was saved when it held {offset}",
                hint="restore the file from a backup, or start a new run from the checkpoint's weights",
            )
        if offset < self.offset:
            try:
                os.truncate(self.path, offset)
            except OSError as error:
                raise storage_error(error, self.path) from error
            self.offset = offset

    def sync(self) -> None:
        """Wait until everything written is on the disk.

        Raises:
            StorageError: The disk refuses; what was written since the last `sync` may be lost, and asking again would
                not tell.
        """
        if self._file is not None:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                raise storage_error(error, self.path) from error

    def lines(self) -> Iterator[bytes]:
        """Yield the complete lines that are in the file now; one that is still being written is left out."""
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
            self._file = self.path.open("ab", buffering=0)
            if os.fstat(self._file.fileno()).st_size > self.offset:
                self._file.truncate(self.offset)
        return self._file

    def _cut_back(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # opening the file cuts a torn line off as well
                self._file.truncate(self.offset)


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


_ENCODER = json.JSONEncoder(allow_nan=False)
_UPDATE = re.compile(rb'\{"update": (\d+),')


@dataclass(frozen=True, slots=True)
class MetricRecord:
    """All metrics of one boundary, and where in the training it was.

    Attributes:
        update: Optimizer updates completed.
        epoch: Epochs completed.
        sample: Samples seen.
        time: When the line was written, in seconds since 1970 (UTC).
        metrics: Value by metric key, under the key that the callback gave.
    """

    update: int
    epoch: int
    sample: int
    time: float
    metrics: Mapping[str, float] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the line, newline included; strict JSON, non-finite numbers as strings.

        The time has a fixed number of digits, so that equal metrics make equally long lines.
        """
        return (
            f'{{"update": {self.update}, "epoch": {self.epoch}, "sample": {self.sample}, '
            f'"time": {self.time:.3f}, "metrics": {_encode_metrics(self.metrics)}}}\n'
        ).encode()

    @classmethod
    def decode(cls, line: bytes) -> MetricRecord:
        """Read a line back.

        Raises:
            ValueError: If it is no line that `encode` wrote.
        """
        try:
            fields = json.loads(line)
            # float() reads "NaN", "Infinity" and "-Infinity" as well as numbers.
            metrics = {key: float(value) for key, value in fields["metrics"].items()}
            return cls(fields["update"], fields["epoch"], fields["sample"], fields["time"], metrics)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"no line of a metrics file: {line[:80]!r}") from error


def update_of(line: bytes) -> int:
    """Return the update of a line without reading all of it; for skipping what was delivered already.

    Raises:
        ValueError: If it is no line of a metrics file.
    """
    match = _UPDATE.match(line)
    return int(match[1]) if match else MetricRecord.decode(line).update


def spell_number(value: float) -> float | str:
    """Return what stands for `value` in strict JSON, which knows neither NaN nor infinities."""
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


class MetricsFile:
    """Writes and reads a run's `metrics.jsonl`.

    Args:
        path: The file; created by the first line.
    """

    def __init__(self, path: Path) -> None:
        self._file = AppendOnlyFile(path)

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self._file.path

    @property
    def offset(self) -> int:
        """Bytes written so far; what a checkpoint keeps to `truncate` to."""
        return self._file.offset

    def append(self, record: MetricRecord) -> None:
        """Write the metrics of one boundary.

        Raises:
            StorageError: If the disk is full or refuses; the lines before stay valid.
        """
        self._file.append(record.encode())

    def read(self) -> Iterator[MetricRecord]:
        """Yield what is in the file, a torn last line left out.

        Raises:
            StorageError: If another line is damaged; it is named.
        """
        for number, line in enumerate(self._file.lines(), start=1):
            try:
                yield MetricRecord.decode(line)
            except ValueError as error:
                raise StorageError(f"{self.path}:{number}: {error}") from error

    def truncate(self, offset: int) -> None:
        """Forget everything after the first `offset` bytes, as a resume does."""
        self._file.truncate(offset)

    def sync(self) -> None:
        """Wait until everything written is on the disk."""
        self._file.sync()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
