"""The spool: the undelivered lines of metrics and results, and the position of each tracker in them."""

from __future__ import annotations

import errno
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

from noether.checkpoint.untrusted import read_record
from noether.metrics.metrics_file import MetricRecord, lines_of, update_of
from noether.metrics.results import Result
from noether.metrics.tracker import DatasetFacts, RunDescription

_Record = TypeVar("_Record", MetricRecord, Result)


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
class Batch(Generic[_Record]):
    """Records to deliver together, and the position in the file after them."""

    records: tuple[_Record, ...]
    offset: int
    seen: Delivered
    damaged: int


class Tail(ABC, Generic[_Record]):
    """The undelivered lines of a file that grows, in batches of bounded size.

    Args:
        path: The file; it may not exist yet.
        delivered: End of an earlier delivery; lines up to there are skipped.
    """

    def __init__(self, path: Path, delivered: Delivered) -> None:
        self._path = path
        self._offset = 0
        self._seen = Delivered()
        self.delivered = delivered

    @abstractmethod
    def decode(self, line: bytes) -> tuple[_Record, int]:
        """Return the record of a line, and the number of its values.

        Raises:
            ValueError: if it is damaged.
        """

    def next_batch(self, limit: int, max_values: int = 10_000) -> Batch[_Record] | None:
        """Return records that were not committed yet, or None if there are no new ones.

        Args:
            limit: Number of records after which no further update is begun.
            max_values: Number of values, over all records, after which no further update is begun.
        """
        self._notice_a_cut()
        records: list[_Record] = []
        offset, seen, damaged, values = self._offset, self._seen, 0, 0
        for line in self._lines():
            try:
                update = update_of(line)
                if (len(records) >= limit or values >= max_values) and update != seen.update:
                    break  # between two updates, so that one in doubt is looked up as a whole
                seen = seen.and_line(update)
                if seen > self.delivered:
                    record, count = self.decode(line)
                    records.append(record)
                    values += count
            except ValueError:
                damaged += 1
            offset += len(line)
        return Batch(tuple(records), offset, seen, damaged) if offset > self._offset else None

    def commit(self, batch: Batch[_Record]) -> None:
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
        return lines_of(self._path.parent, self._path, self._offset)


class MetricsTail(Tail[MetricRecord]):
    """The undelivered lines of `metrics.jsonl`."""

    def decode(self, line: bytes) -> tuple[MetricRecord, int]:
        """Return the record of a line, and the number of its metrics."""
        record = MetricRecord.decode(line)
        return record, len(record.metrics)


class ResultsTail(Tail[Result]):
    """The undelivered lines of `results.jsonl`."""

    def decode(self, line: bytes) -> tuple[Result, int]:
        """Return the result of a line."""
        return Result.decode(line), 1


_PATHS = ("run_dir", "spec_path", "resolved_spec_path")
_NOT_KEPT = (
    *("reference", "token", "started", "ended", "resumed_update", "may_differ", "mathematics", "continues"),
    "summarise",
)
_TEXTS = ("run_id", "name", "summary")
_TABLES = ("params", "tags", "facts")
_TOKEN = re.compile(r"[\w-]{0,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class SpoolState:
    """Content of `spool/<tracker>.json`.

    Attributes:
        delivered: End of the last delivery.
        sending: End of the last delivery that was begun; lines between `delivered` and it may or may not have arrived.
        reference: `BaseTracker.reference`, to continue the run.
        token: `RunDescription.token`.
        continues: `RunDescription.continues`.
        computed: `RunDescription.mathematics` of the points after an update, for each change of it.
        results: End of the last delivery of results.
        ended: The status that the tracker has acknowledged; empty while the run goes on.
    """

    delivered: Delivered = field(default_factory=Delivered)
    sending: Delivered = field(default_factory=Delivered)
    reference: Mapping[str, str] = field(default_factory=dict)
    token: str = ""
    continues: Mapping[str, str] = field(default_factory=dict)
    computed: tuple[tuple[int, str], ...] = ()
    results: Delivered = field(default_factory=Delivered)
    ended: str = ""


def read_spool(path: Path) -> SpoolState:
    """Read the state of an earlier attempt; an empty one if there is none or it is unreadable.

    A lost state costs a second run at the tracker, which is not a reason to stop a run.
    """
    try:
        found = read_record(path.parent.parent, path)
        token = str(found.get("token", ""))
        return SpoolState(
            delivered=Delivered(int(found["update"]), int(found["lines"])),
            sending=Delivered(*(int(part) for part in found.get("sending", (-1, 0)))),
            reference=_texts(found["reference"]),
            token=token if _TOKEN.fullmatch(token) else "",
            continues=_texts(found.get("continues", {})),
            computed=tuple((int(update), str(digest)) for update, digest in found.get("computed", ())),
            results=Delivered(*(int(part) for part in found.get("results", (-1, 0)))),
            ended=str(found.get("ended", "")),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return SpoolState()


def write_spool(path: Path, state: SpoolState, *, durably: bool = False) -> None:
    """Replace the state at once, so that a kill leaves the old one or the new one.

    Args:
        path: The file.
        state: The new state.
        durably: Wait until it is on the disk; for states without which a power failure would lose the tracker's run,
            not only a position.

    Raises:
        OSError: if the disk is full or refuses, or the folder is a link.
    """
    body = {
        "update": state.delivered.update,
        "lines": state.delivered.lines,
        "sending": [state.sending.update, state.sending.lines],
        "reference": dict(state.reference),
        "token": state.token,
        "continues": dict(state.continues),
        "computed": state.computed,
        "results": [state.results.update, state.results.lines],
        "ended": state.ended,
    }
    _replace(path, body, durably=durably)


def description_path(spool_path: Path) -> Path:
    """Return the path of the run description that belongs to a spool file."""
    return spool_path.with_suffix(".run.json")


def write_description(path: Path, run: RunDescription) -> None:
    """Write the description of a run beside its spool, for a later delivery.

    Raises:
        OSError: if the disk is full or refuses, or the folder is a link.
    """
    body: dict[str, Any] = {}
    for each in fields(run):
        value = getattr(run, each.name)
        if each.name not in _NOT_KEPT:
            body[each.name] = str(value) if isinstance(value, Path) else value
    body["datasets"] = [asdict(dataset) for dataset in run.datasets]
    _replace(path, body, durably=True)


def read_description(path: Path) -> RunDescription | None:
    """Read a description back; None if there is none, or it is damaged."""
    try:
        found = read_record(path.parent.parent, path)
        paths = {name: Path(found[name]) for name in _PATHS if found.get(name)}
        texts = {name: str(found[name]) for name in _TEXTS}
        tables = {name: _texts(found[name]) for name in _TABLES}
        datasets = tuple(_dataset(each) for each in found.pop("datasets", ()))  # versions before had none
        known = {**found, **paths, **texts, **tables, "datasets": datasets, "attempt": int(found["attempt"])}
        return RunDescription(**known)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _dataset(found: Mapping[str, Any]) -> DatasetFacts:
    return DatasetFacts(
        key=str(found["key"]),
        kind=str(found["kind"]),
        digest=str(found["digest"]),
        samples=int(found["samples"]),
        source=str(found["source"]),
        properties={str(name): (tuple(map(int, shape)), str(of)) for name, (shape, of) in found["properties"].items()},
    )


def _texts(found: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in found.items()}


def _replace(path: Path, body: Mapping[str, Any], *, durably: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.parent.is_symlink():
        raise OSError(errno.ELOOP, "the folder is a link", str(path.parent))
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)  # whatever lies there is not written to
    with new.open("x", encoding="utf-8") as file:
        json.dump(body, file, default=dict)  # for mappings of other types
        if durably:
            file.flush()
            os.fsync(file.fileno())
    new.replace(path)
