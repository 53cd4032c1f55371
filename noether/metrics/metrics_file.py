"""`metrics.jsonl`: one record for each boundary, in a file that grows by whole lines."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from noether.checkpoint.commit import always_own
from noether.checkpoint.durable import replace_file, storage_error
from noether.checkpoint.manifest import FileRecord
from noether.checkpoint.paths import set_aside
from noether.checkpoint.untrusted import NotPlainError, open_inside
from noether.errors import StorageError
from noether.kernel.names import has_control

_LOG = logging.getLogger("noether.metrics")
_COUNTERS = ("update", "epoch", "sample")
_ENCODER = json.JSONEncoder(allow_nan=False)
_LONGEST = 256 << 20  # bytes of a line; a longer one is no line of Noether, and is not read into memory
_LAST_TIME = 1 << 36  # seconds since 1970, in the year 4147
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
            if any(map(has_control, metrics)) or any(type(fields[name]) is not int for name in _COUNTERS):
                raise ValueError("a metric key has control characters, or a counter is not an integer")
            if not 0 <= fields["time"] < _LAST_TIME:
                raise ValueError("the time is not in seconds since 1970")
            return cls(fields["update"], fields["epoch"], fields["sample"], fields["time"], metrics)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
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


def lines_of(run: Path, path: Path, offset: int = 0) -> Iterator[bytes]:
    """Yield the complete lines of a file from an offset on; one that is still being written is left out.

    Args:
        run: Run folder that the file lies in, below which no part of its path may be a link.
        path: The file; it may not exist yet.
        offset: Bytes to skip: whole lines.

    Raises:
        StorageError: if a line is longer than any that Noether writes.
        OSError: if the file cannot be read.
    """
    try:
        file = _reader(run, path)
    except (FileNotFoundError, NotADirectoryError):
        return
    with file:
        file.seek(offset)
        while line := file.readline(_LONGEST):
            if line.endswith(b"\n"):
                yield line
            elif len(line) == _LONGEST:
                raise _too_long(path)


def _reader(run: Path, path: Path) -> BinaryIO:
    return os.fdopen(open_inside(run, path), "rb")


def _too_long(path: Path) -> StorageError:
    return StorageError(
        f"{path} is damaged: found a line of more than {_LONGEST} bytes, expected shorter ones",
        hint="restore the file from a backup",
    )


class AppendOnlyFile:
    """A file to which whole lines are appended.

    Each `write` is one unbuffered write. A line that could not be written whole is cut off again, and so is one
    that a killed process left behind, when the file is opened. The file is created by the first line.

    Args:
        path: The file; its folder exists.
        run: Run folder that it lies in, below which no part of the path may be a link; None for the file's own folder.

    Attributes:
        require_own: Raises an error if the run is not that of this process any more; called before the file is opened
            or cut.

    Raises:
        StorageError: if the file is a link or not a regular file.
    """

    def __init__(self, path: Path, run: Path | None = None) -> None:
        self.path = path
        self.run = path.parent if run is None else run
        self.require_own: Callable[[], object] = always_own
        try:
            self.offset = self._end_of_last_line()
        except NotPlainError as error:
            raise storage_error(error, path) from error
        self._file: BinaryIO | None = None
        self._digest = None if self.offset else hashlib.sha256()  # of `offset` bytes; None until it is needed

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
        if self._digest is not None:
            self._digest.update(lines)

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
                with os.fdopen(open_inside(self.run, self.path, os.O_WRONLY), "wb", buffering=0) as file:
                    file.truncate(offset)
            except OSError as error:
                raise storage_error(error, self.path) from error
            self.offset, self._digest = offset, None

    def written(self) -> FileRecord:
        """Return length and hash of the lines that were written."""
        if self._digest is None:
            self._digest = self._digest_of(self.offset)
        return FileRecord(self.offset, self._digest.hexdigest())

    def restore(self, offset: int, written: FileRecord | None = None, update: int | None = None) -> bool:
        """Cut the file back to its first `offset` bytes; if it was damaged since, keep its whole lines up to there.

        The damaged file stays in the folder `damaged/` beside it.

        Args:
            offset: Length of the file when its state was saved.
            written: What `written` returned then; None if it is unknown.
            update: Completed updates at that time.

        Returns:
            False if the file was damaged.

        Raises:
            StorageError: if the disk refuses.
        """
        damage = self._damage(offset, written)
        if damage is None:
            self.truncate(offset)
            return True
        self.require_own()
        self.close()
        lines = self._whole_lines(offset, update)
        kept = f"; the damaged file is {set_aside(self.run, self.path, stays=True)}" if self.offset else ""
        if self.path.exists() or lines:
            replace_file(self.path, b"".join(lines), inside=self.run)
        self.offset, self._digest = sum(map(len, lines)), None
        _LOG.warning("%s was damaged: %s. Its %d whole lines are kept%s", self.path, damage, len(lines), kept)
        return False

    def update_of(self, line: bytes) -> int:
        """Return the update of a line.

        Raises:
            ValueError: if it is damaged.
        """
        fields = json.loads(line)
        if not isinstance(fields, dict) or type(fields.get("update")) is not int:
            raise ValueError(f"not a line of {self.path.name}: {line[:80]!r}")
        return int(fields["update"])

    def _damage(self, offset: int, written: FileRecord | None) -> str | None:
        """Return the difference between the file and its saved state; None if there is none."""
        if offset > self.offset:
            return f"found {self.offset} bytes, expected {offset}"
        if written is None:
            return "a line cannot be read" if None in map(self._update_in, self._until(offset)) else None
        found = FileRecord(offset, self._digest_of(offset).hexdigest())
        return None if found == written else "its bytes are not those that were written"

    def _whole_lines(self, offset: int, update: int | None) -> list[bytes]:
        """Return the lines before `offset` that can be read and stand in the order of their updates."""
        kept: list[tuple[int, bytes]] = []
        for line in self._until(offset):
            at = self._update_in(line)
            if at is None or (update is not None and at > update):
                continue
            if len(kept) > 1 and kept[-1][0] > at >= kept[-2][0]:  # the line before has a wrong number
                kept.pop()
            if not kept or at >= kept[-1][0]:
                kept.append((at, line))
        return [line for _, line in kept]

    def _update_in(self, line: bytes) -> int | None:
        """Return the update of a line; None if it is damaged."""
        try:
            return self.update_of(line)
        except (ValueError, RecursionError):
            return None

    def _until(self, offset: int) -> Iterator[bytes]:
        """Yield the complete lines that begin before `offset`."""
        place = 0
        for line in self.lines():
            if place >= offset:
                return
            yield line
            place += len(line)

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
        return lines_of(self.run, self.path)

    def close(self) -> None:
        """Close the file; a later `append` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> BinaryIO:
        if self._file is None:
            self.require_own()
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            self._file = os.fdopen(open_inside(self.run, self.path, flags), "ab", buffering=0)
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

    def _digest_of(self, size: int) -> hashlib._Hash:
        """Return the hash of the first bytes of the file; of nothing if there is none."""
        digest = hashlib.sha256()
        if size:
            with _reader(self.run, self.path) as file:
                while size and (data := file.read(min(size, 1 << 20))):
                    digest.update(data)
                    size -= len(data)
        return digest

    def _end_of_last_line(self) -> int:
        """Return how many bytes of the file are complete lines; it may end in a torn one."""
        try:
            file = _reader(self.run, self.path)
        except (FileNotFoundError, NotADirectoryError):
            return 0
        with file:
            end = size = file.seek(0, os.SEEK_END)
            while end:
                if size - end > _LONGEST:
                    raise _too_long(self.path)
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

    def update_of(self, line: bytes) -> int:
        """Return the update of a line.

        Raises:
            ValueError: if it is damaged.
        """
        return MetricRecord.decode(line).update

    def read(self, *, skips_damaged: bool = False) -> Iterator[MetricRecord]:
        """Yield the records of the file, without a torn last line.

        Args:
            skips_damaged: Leave damaged lines out.

        Raises:
            StorageError: if another line is damaged; names it.
        """
        for number, line in enumerate(self.lines(), start=1):
            try:
                yield MetricRecord.decode(line)
            except ValueError as error:
                if skips_damaged:
                    continue
                raise StorageError(f"{self.path}:{number}: {error}") from error
