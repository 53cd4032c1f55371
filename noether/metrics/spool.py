"""The spool: the undelivered part of a metrics file, and each tracker's position in it, kept between attempts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from noether.metrics.metrics_file import MetricRecord, update_of
from noether.metrics.tracker import RunDescription


@dataclass(frozen=True, slots=True, order=True)
class Delivered:
    """Position of a tracker: it has all lines before `update`, and the first `lines` lines of that update.

    Counted in updates and not in bytes, because a resume cuts the file back and writes the same values again:
    those that the tracker has are not sent twice.
    """

    update: int = -1
    lines: int = 0

    def and_line(self, update: int) -> Delivered:
        """Return the position after one more line of that update."""
        return Delivered(update, self.lines + 1 if update == self.update else 1)


@dataclass(frozen=True, slots=True)
class Batch:
    """Records to deliver together, and the position in the file after them."""

    records: tuple[MetricRecord, ...]
    offset: int
    seen: Delivered
    damaged: int


class MetricsTail:
    """The undelivered lines of a metrics file, in batches of bounded size.

    Args:
        path: The file; it may not exist yet.
        delivered: End of an earlier delivery; lines up to there are skipped.
    """

    def __init__(self, path: Path, delivered: Delivered) -> None:
        self._path = path
        self._offset = 0
        self._seen = Delivered()
        self.delivered = delivered

    def next_batch(self, limit: int, max_values: int = 10_000) -> Batch | None:
        """Return records that were not committed yet, or None if there are no new ones.

        Args:
            limit: Largest number of records.
            max_values: Number of values, over all records, after which no more are added.
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
        """Mark this batch as delivered; the next one starts after it."""
        self._offset, self._seen = batch.offset, batch.seen
        self.delivered = max(self.delivered, batch.seen)

    def remaining(self) -> int:
        """Return the number of lines that were not delivered."""
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


_PATHS = ("run_dir", "spec_path", "resolved_spec_path")
_NOT_KEPT = ("reference", "token", "started", "ended")


@dataclass(frozen=True, slots=True)
class SpoolState:
    """Content of `spool/<tracker>.json`.

    Attributes:
        delivered: End of the last delivery.
        sending: End of the last delivery that was begun; lines between `delivered` and it may or may not have arrived.
        reference: `BaseTracker.reference`, to continue the run.
        token: `RunDescription.token`.
        files: Files that wait to be uploaded, each with its target folder.
        ended: The status that the tracker has acknowledged; empty while the run goes on.
    """

    delivered: Delivered = field(default_factory=Delivered)
    sending: Delivered = field(default_factory=Delivered)
    reference: Mapping[str, str] = field(default_factory=dict)
    token: str = ""
    files: tuple[tuple[str, str], ...] = ()
    ended: str = ""


def read_spool(path: Path) -> SpoolState:
    """Read the state of an earlier attempt; an empty one if there is none or it is unreadable.

    A lost state costs values that the tracker shows twice, which is not a reason to stop a run.
    """
    try:
        found = json.loads(path.read_bytes())
        return SpoolState(
            delivered=Delivered(int(found["update"]), int(found["lines"])),
            sending=Delivered(*(int(part) for part in found.get("sending", (-1, 0)))),
            reference={str(name): str(value) for name, value in found["reference"].items()},
            token=str(found.get("token", "")),
            files=tuple((str(file), str(folder)) for file, folder in found.get("files", ())),
            ended=str(found.get("ended", "")),
        )
    except (OSError, AttributeError, KeyError, TypeError, ValueError):
        return SpoolState()


def write_spool(path: Path, state: SpoolState, *, durably: bool = False) -> None:
    """Replace the state at once, so that a kill leaves the old one or the new one.

    Args:
        path: The file.
        state: The new state.
        durably: Wait until it is on the disk; for states without which a power failure would lose the tracker's run,
            not only a position.

    Raises:
        OSError: if the disk is full or refuses.
    """
    body = {
        "update": state.delivered.update,
        "lines": state.delivered.lines,
        "sending": [state.sending.update, state.sending.lines],
        "reference": dict(state.reference),
        "token": state.token,
        "files": state.files,
        "ended": state.ended,
    }
    _replace(path, body, durably=durably)


def description_path(spool_path: Path) -> Path:
    """Return the path of the run description that belongs to a spool file."""
    return spool_path.with_suffix(".run.json")


def write_description(path: Path, run: RunDescription) -> None:
    """Write the description of a run beside its spool, for a later delivery.

    Raises:
        OSError: if the disk is full or refuses.
    """
    body: dict[str, Any] = {}
    for each in fields(run):
        value = getattr(run, each.name)
        if each.name not in _NOT_KEPT:
            body[each.name] = str(value) if isinstance(value, Path) else value
    _replace(path, body, durably=True)


def read_description(path: Path) -> RunDescription | None:
    """Read a description back; None if there is none, or it is damaged."""
    try:
        found = json.loads(path.read_bytes())
        paths = {name: Path(found[name]) for name in _PATHS if found.get(name)}
        return RunDescription(**{**found, **paths})
    except (OSError, AttributeError, KeyError, TypeError, ValueError):
        return None


def _replace(path: Path, body: Mapping[str, Any], *, durably: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    with new.open("w", encoding="utf-8") as file:
        json.dump(body, file, default=dict)  # for mappings of other types
        if durably:
            file.flush()
            os.fsync(file.fileno())
    new.replace(path)
