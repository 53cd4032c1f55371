"""`noether tracker sync`: deliver the metrics and files that the trackers of a run missed."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from noether.checkpoint.paths import PathProvider
from noether.config.base import construct
from noether.config.discriminated import Discriminated
from noether.errors import UsageError
from noether.kernel.registry import use_registry
from noether.metrics.delivery import Delivery
from noether.metrics.feed import in_one_line
from noether.metrics.spool import description_path, read_description
from noether.metrics.tracker import BaseTracker, RunDescription, RunStatus, TrackerRefusedError
from noether.runs.folder.lock import RunLock, is_locked
from noether.runs.folder.run_folder import Attempt, find_run, last_attempt, read_record
from noether.runs.saved_spec import read_part, read_saved_spec, saved_spec_registry
from noether.runs.tracking.tracking import flattened, tracker_names
from noether.spec.model import SpecTable

_LOG = logging.getLogger("noether.tracking")
_ATTEMPTS = 3
_ENDS: dict[str, RunStatus] = {"FINISHED": "FINISHED", "FAILED": "FAILED", "KILLED": "KILLED"}


class _TrackersPart(SpecTable):
    trackers: list[Annotated[Any, Discriminated("tracker")]] = Field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Synced:
    """Result of one tracker.

    Attributes:
        tracker: Name of the tracker.
        lines: Metric lines delivered now.
        files: Files delivered now.
        status: Status of the run that the tracker has now.
        where: Address of the run on the tracker.
        missing: Metric lines that the tracker still lacks.
        error: Reason why it lacks something; empty if it lacks nothing.
    """

    tracker: str
    lines: int
    files: int
    status: str
    where: str
    missing: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class _End:
    """End of a run, from the records of its attempts."""

    attempt: Attempt
    started: float
    ended: float

    @property
    def status(self) -> RunStatus:
        return _ENDS.get(self.attempt.status, "KILLED")  # a run that is RUNNING and holds no lock was killed

    @property
    def error(self) -> str | None:
        return self.attempt.record.get("reason") if self.status == "FAILED" else None


def sync_trackers(run: str | Path, *, output: str | Path = "runs", trusted: Iterable[str] = ()) -> Iterator[Synced]:
    """Deliver missing metrics and files to the trackers of a run, one after another, and the status of the run.

    Args:
        run: Folder of the run, or its id below `output`.
        output: Folder that holds the runs.
        trusted: Further packages that dotted kinds may import.

    Raises:
        UsageError: if there is no such run, it has not ended yet, or its trackers cannot be built.
    """
    paths = find_run(run, output)
    if is_locked(paths.run_path):
        raise UsageError(
            f"the run in {paths.run_path} has not ended",
            hint="a running run delivers by itself; try again when it has ended",
        )
    with RunLock(paths.run_path), use_registry(saved_spec_registry(trusted=trusted)):
        end = _end_of(paths)
        trackers: list[BaseTracker] = [construct(config) for config in read_part(paths, _TrackersPart).trackers]
        for tracker, name in zip(trackers, tracker_names(trackers), strict=True):
            if tracker.wants_metrics:
                yield _sync(tracker, name, paths, end)


def _sync(tracker: BaseTracker, name: str, paths: PathProvider, end: _End) -> Synced:
    spool_path = paths.spool_path / f"{name}.json"
    run = read_description(description_path(spool_path)) or _described(paths, end)
    run = replace(
        run,
        run_id=paths.run_id,
        run_dir=paths.run_path,
        spec_path=paths.spec_path,
        resolved_spec_path=paths.resolved_spec_path,
        started=end.started,
        ended=end.ended,
    )
    delivery = Delivery(tracker, paths.metrics_path, run, spool_path, lambda text: _LOG.warning("%s: %s", name, text))
    if delivery.ended == end.status and not delivery.remaining() and not delivery.files:
        return Synced(name, 0, 0, end.status, "")
    return _deliver(delivery, name, end)


def _deliver(delivery: Delivery, name: str, end: _End) -> Synced:
    lines = files = 0
    error = ""
    for attempt in range(_ATTEMPTS):
        time.sleep(attempt * 0.5)
        before = delivery.remaining()
        try:
            if not delivery.is_open:
                delivery.open()
            delivery.deliver_metrics()
            files += delivery.deliver_files()
            delivery.close(end.status, end.error)
        except TrackerRefusedError as refusal:
            return Synced(name, lines, files, end.status, "", delivery.remaining(), in_one_line(refusal))
        except Exception as failure:  # a tracker is a plugin; the next one still gets its turn
            error = in_one_line(failure)
        else:
            error = ""
        lines += before - delivery.remaining()
        if not error:
            break
    return Synced(
        name, lines, files, end.status, "" if error else delivery.tracker.description, delivery.remaining(), error
    )


def _end_of(paths: PathProvider) -> _End:
    last = last_attempt(paths.attempts_path)
    if last is None:
        raise UsageError(f"{paths.run_path} has no attempts: nothing was trained", hint="start the run")
    started = _first_start(paths) or _changed(paths.resolved_spec_path)
    ended = _time(last.record.get("ended")) or _changed(paths.metrics_path) or started
    return _End(last, started, max(started, ended))


def _described(paths: PathProvider, end: _End) -> RunDescription:
    """Describe a run from its spec and records, if it ended before any tracker was opened."""
    tables = read_saved_spec(paths).tables
    record = end.attempt.record
    return RunDescription(
        run_id=paths.run_id,
        name=str(tables.get("name", paths.run_id)),
        run_dir=paths.run_path,
        params=flattened(tables),
        attempt=end.attempt.number,
        facts={name: str(record.get(name, "unknown")) for name in ("host", "pid")},
    )


def _first_start(paths: PathProvider) -> float:
    return _time(read_record(paths.attempts_path, 1).get("started"))


def _time(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _changed(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0
