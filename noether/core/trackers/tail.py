"""Reading a growing `metrics.jsonl` from where the last delivery ended; knows no thread and no tracker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from noether.core.trackers.record import MetricRecord, update_of


@dataclass(frozen=True, slots=True, order=True)
class Delivered:
    """How far a tracker has got: all lines before `update`, and the first `lines` lines of that update.

    Counted in updates and not in bytes, because a resume cuts the file back and writes the same values again:
    those that the tracker has are not sent twice.
    """

    update: int = -1
    lines: int = 0

    def and_line(self, update: int) -> Delivered:
        """Return where this is after one more line of that update."""
        return Delivered(update, self.lines + 1 if update == self.update else 1)


@dataclass(frozen=True, slots=True)
class Batch:
    """Records to deliver together, and where the file has been read to with them."""

    records: tuple[MetricRecord, ...]
    offset: int
    seen: Delivered
    damaged: int


class MetricsTail:
    """Yields what a file of metrics holds beyond what was delivered, in batches of bounded size.

    Args:
        path: The file; it may not exist yet.
        delivered: Where an earlier delivery ended. Lines up to there are skipped.
    """

    def __init__(self, path: Path, delivered: Delivered) -> None:
        self._path = path
        self._offset = 0
        self._seen = Delivered()
        self.delivered = delivered

    def next_batch(self, limit: int, max_values: int = 10_000) -> Batch | None:
        """Return records that were not committed yet, or None where there is nothing new.

        Args:
            limit: At most so many records.
            max_values: Records with this many values together are enough, however many keys each of them has.
        """
        self._notice_a_cut()
        records: list[MetricRecord] = []
        offset, seen, damaged, values = self._offset, self._seen, 0, 0
        for line in self._lines():
            offset += len(line)
            try:
                seen = seen.and_line(update_of(line))
                if seen > self.delivered:
                    records.append(MetricRecord.decode(line))
                    values += len(records[-1].metrics)
            except ValueError:
                damaged += 1
            if len(records) == limit or values >= max_values:
                break
        return Batch(tuple(records), offset, seen, damaged) if offset > self._offset else None

    def commit(self, batch: Batch) -> None:
        """Remember that this batch was delivered; the next one starts behind it."""
        self._offset, self._seen = batch.offset, batch.seen
        self.delivered = max(self.delivered, batch.seen)

    def remaining(self) -> int:
        """Count the lines that were not delivered."""
        self._notice_a_cut()
        seen, count = self._seen, 0
        for line in self._lines():
            try:
                seen = seen.and_line(update_of(line))
            except ValueError:
                continue
            count += seen > self.delivered
        return count

    def _notice_a_cut(self) -> None:
        """Begin anew in a file that is shorter than what was read; what was delivered is skipped."""
        if self._offset and (not self._path.exists() or self._path.stat().st_size < self._offset):
            self._offset, self._seen = 0, Delivered()

    def _lines(self) -> Iterator[bytes]:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # still being written
                yield line
