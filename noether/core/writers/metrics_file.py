"""`metrics.jsonl`: the truth about a run's metrics, one line a boundary."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from noether.core.trackers.record import MetricRecord
from noether.core.writers.append_only import AppendOnlyFile
from noether.errors import StorageError


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
