"""The spool: the undelivered part of a metrics file, and each tracker's position in it, kept between attempts."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

from noether.checkpoint.untrusted import open_inside, read_record, read_untrusted
from noether.metrics.metrics_file import MetricRecord, lines_of, update_of
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
            limit: Number of records after which no further update is begun.
            max_values: Number of values, over all records, after which no further update is begun.
        """
        self._notice_a_cut()
        records: list[MetricRecord] = []
        offset, seen, damaged, values = self._offset, self._seen, 0, 0
        for line in self._lines():
            try:
                update = update_of(line)
                if (len(records) >= limit or values >= max_values) and update != seen.update:
                    break  # between two updates, so that one in doubt is looked up as a whole
                seen = seen.and_line(update)
                if seen > self.delivered:
                    records.append(MetricRecord.decode(line))
                    values += len(records[-1].metrics)
            except ValueError:
                damaged += 1
            offset += len(line)
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
        return lines_of(self._path.parent, self._path, self._offset)


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file of the run folder that waits to be uploaded, as the run that wrote it has listed it.

    Attributes:
        path: Path below the run folder, with slashes.
        folder: Target folder at the tracker.
        sha256: Hash of the content.
        size: Size in bytes.
    """

    path: str
    folder: str
    sha256: str
    size: int

    @classmethod
    def of(cls, path: Path, folder: str, run_dir: Path) -> ListedFile:
        """List a file.

        Raises:
            OSError: if it cannot be read.
            ValueError: if it lies outside of the run folder, or is not a regular file.
        """
        inside = path.absolute().relative_to(run_dir.absolute()).as_posix()
        with os.fdopen(open_inside(run_dir, inside), "rb") as file:
            return cls(inside, folder, hashlib.file_digest(file, "sha256").hexdigest(), file.tell())

    def read(self, run_dir: Path) -> bytes:
        """Return the content.

        Raises:
            OSError: if it cannot be read.
            ValueError: if it is not the file that was listed, or one of the two paths leads elsewhere.
        """
        parts = PurePosixPath(self.folder).parts
        if not self.folder.isprintable() or ".." in parts or parts[:1] == ("/",) or not self.path.isprintable():
            raise ValueError(f"wrong target folder: {self.folder!r}")
        data = read_untrusted(run_dir, self.path, size=self.size)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise ValueError("its content is not what the run listed")
        return data


_PATHS = ("run_dir", "spec_path", "resolved_spec_path")
_NOT_KEPT = ("reference", "token", "started", "ended", "resumed_update", "may_differ", "mathematics", "continues")
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
        files: Files that wait to be uploaded.
        ended: The status that the tracker has acknowledged; empty while the run goes on.
    """

    delivered: Delivered = field(default_factory=Delivered)
    sending: Delivered = field(default_factory=Delivered)
    reference: Mapping[str, str] = field(default_factory=dict)
    token: str = ""
    continues: Mapping[str, str] = field(default_factory=dict)
    computed: tuple[tuple[int, str], ...] = ()
    files: tuple[ListedFile, ...] = ()
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
            files=tuple(_listed(each) for each in found.get("files", ())),
            ended=str(found.get("ended", "")),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return SpoolState()


def _listed(found: Any) -> ListedFile:
    """Return an entry of the list; one without a hash, as older versions wrote, fits no file."""
    if isinstance(found, dict):
        return ListedFile(str(found["path"]), str(found["folder"]), str(found["sha256"]), int(found["size"]))
    return ListedFile(str(found[0]), str(found[1]), "", -1)


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
        "files": [asdict(each) for each in state.files],
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
    _replace(path, body, durably=True)


def read_description(path: Path) -> RunDescription | None:
    """Read a description back; None if there is none, or it is damaged."""
    try:
        found = read_record(path.parent.parent, path)
        paths = {name: Path(found[name]) for name in _PATHS if found.get(name)}
        texts = {name: str(found[name]) for name in _TEXTS}
        tables = {name: _texts(found[name]) for name in _TABLES}
        return RunDescription(**{**found, **paths, **texts, **tables, "attempt": int(found["attempt"])})
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


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
