"""`noether tracker sync`: deliver the metrics and results that the trackers of a run missed."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from noether.checkpoint.paths import PathProvider
from noether.checkpoint.untrusted import read_record
from noether.errors import UsageError
from noether.kernel.registry import use_registry
from noether.metrics.delivery import Delivery
from noether.metrics.feed import in_one_line
from noether.metrics.results import Result
from noether.metrics.spool import Delivered, MetricsTail, description_path, read_description
from noether.metrics.tracker import (
    BaseTracker,
    PackedModel,
    RunDescription,
    RunStatus,
    TrackerError,
    TrackerRefusedError,
)
from noether.runs.folder.lock import RunLock, is_locked
from noether.runs.folder.run_folder import Attempt, find_run, last_attempt, record_path
from noether.runs.results.report.page import report_for_trackers
from noether.runs.saved_spec import read_saved_spec
from noether.runs.tracking.note import describe_run
from noether.runs.tracking.tracking import OwnTrackers, flattened, packed_or_none, sync_registry

_LOG = logging.getLogger("noether.tracking")
_ATTEMPTS = 3
_LONGEST_PAUSE_S = 30.0
_SHOWN = 5
_RECORDS_A_BATCH = 500
_ENDS: dict[str, RunStatus] = {"FINISHED": "FINISHED", "FAILED": "FAILED", "KILLED": "KILLED"}


@dataclass(frozen=True, slots=True)
class Synced:
    """Result of one tracker.

    Attributes:
        tracker: Name of the tracker.
        lines: Metric lines delivered now.
        results: Figures, tables, histograms and files delivered now.
        status: Status of the run that the tracker has now.
        where: Address of the run on the tracker.
        missing: Metric lines that the tracker still lacks; points and results with `--verify`.
        error: Reason why it lacks something; empty if it lacks nothing.
        points: Points that were compared with the tracker's.
        compared: Results that were compared with the tracker's.
        resent: Points and results that the tracker had lost, and has got again.
        lost: Some of those that it had lost: `loss/online/total at update 7`.
    """

    tracker: str
    lines: int
    results: int
    status: str
    where: str
    missing: int = 0
    error: str = ""
    points: int = 0
    compared: int = 0
    resent: int = 0
    lost: tuple[str, ...] = ()


@dataclass
class Comparison:
    """The points and results of a tracker beside those of `metrics.jsonl` and `results.jsonl`, which are the truth.

    Attributes:
        points: Number of points of the file that the tracker should have.
        missing: Points that it lacks.
        doubled: Points that it has more often.
        differing: Points with another value; those that depend on the clock are not compared.
        results: Number of results that the run has listed.
        absent: Results that it lacks or has with another content; None if it cannot look them up.
    """

    points: int = 0
    missing: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    results: int = 0
    absent: list[str] | None = None

    @property
    def problem(self) -> str:
        """Text about everything that is wrong; empty if nothing is."""
        parts = {"lacks": self.missing, "has twice": self.doubled, "has other values of": self.differing}
        texts = [
            f"it {what} {len(points)} of {self.points} points: {', '.join(points[:_SHOWN])}"
            for what, points in parts.items()
            if points
        ]
        if self.absent:
            shown = ", ".join(self.absent[:_SHOWN])
            texts.append(f"it lacks {len(self.absent)} of {self.results} results, or has others: {shown}")
        if self.absent is None and self.results:
            texts.append(f"its {self.results} results cannot be verified: it does not say what it has")
        return "; ".join(texts)


_CLOCK = ("*profiling/*", "*time*", "*second*", "*memory*", "*duration*", "*latency*")
"""Keys whose values a resumed run computes anew; the points that arrived first stay as they are."""


def compare(tracker: BaseTracker, metrics_path: Path, until: int = sys.maxsize) -> Comparison | None:
    """Compare the points of a metrics file up to an update with those of a tracker; None if it cannot look them up."""
    expected: dict[str, dict[int, list[float]]] = {}
    tail = MetricsTail(metrics_path, Delivered())
    while batch := tail.next_batch(_RECORDS_A_BATCH):
        tail.commit(batch)
        for record in batch.records:
            for key, value in record.metrics.items():
                if tracker.shows(key) and tracker.takes(value) and record.update <= until:
                    expected.setdefault(key, {}).setdefault(record.update, []).append(tracker.rounded(value))
    logged = tracker.logged(expected.keys())
    if logged is None:
        return None
    found = Comparison(points=sum(len(values) for updates in expected.values() for values in updates.values()))
    for key, updates in expected.items():
        is_timed = any(fnmatchcase(key.lower(), pattern) for pattern in _CLOCK)
        for update, values in updates.items():
            there, point = logged.get(key, {}).get(update, ()), f"{key!r} at update {update}"
            found.missing += [point] * (len(values) - len(there))
            found.doubled += [point] * (len(there) - len(values))
            if len(there) == len(values) and not is_timed and sorted(map(repr, there)) != sorted(map(repr, values)):
                found.differing.append(point)
    return found


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


def sync_trackers(
    run: str | Path,
    *,
    output: str | Path = "runs",
    trusted: Iterable[str] = (),
    store: str | None = None,
    verify: bool = False,
) -> Iterator[Synced]:
    """Deliver missing metrics and results to the trackers of a run, one after another, and the status of the run.

    Args:
        run: Folder of the run, or its id below `output`.
        output: Folder that holds the runs.
        trusted: Further packages that dotted kinds may import.
        store: Server or database to deliver to; None for the user's own one.
        verify: Compare every point with those that the tracker has, and send again what it has lost.

    Raises:
        UsageError: if there is no such run, it has not ended yet, its trackers cannot be built, or its folder names
            another store than the user's.
    """
    paths = find_run(run, output)
    if is_locked(paths.run_path):
        raise UsageError(
            f"the run in {paths.run_path} has not ended",
            hint="a running run delivers by itself; try again when it has ended",
        )
    with RunLock(paths.run_path) as lock, use_registry(sync_registry(paths, tuple(trusted))):
        end = _end_of(paths)
        for name, tracker in OwnTrackers(paths, store).build():
            if tracker.wants_metrics:
                yield _sync(tracker, name, paths, end, lock, verify=verify)


def _sync(tracker: BaseTracker, name: str, paths: PathProvider, end: _End, lock: RunLock, *, verify: bool) -> Synced:
    spool_path = paths.spool_path / f"{name}.json"
    run = read_description(description_path(spool_path)) or _described(paths, end)
    run = replace(
        run,
        run_id=paths.run_id,
        run_dir=paths.run_path,
        spec_path=None,  # files of the folder are read with care: see `Delivery.upload`
        resolved_spec_path=None,
        started=end.started,
        ended=end.ended,
    )
    run = replace(run, summarise=partial(describe_run, paths, run.datasets))
    note = partial(_LOG.warning, "%s: %s", name)
    delivery = Delivery(tracker, paths.metrics_path, run, spool_path, note, lock.require_own)
    if delivery.ended == end.status and not (verify or delivery.remaining() or delivery.results_waiting):
        return Synced(name, 0, 0, end.status, "")
    return _Sync(delivery, paths, end, verify).run(name)


@dataclass
class _Sync:
    """One delivery to one tracker, tried a few times."""

    delivery: Delivery
    paths: PathProvider
    end: _End
    verify: bool
    results: int = 0
    found: Comparison | None = None
    before: Comparison | None = None
    lost: list[str] = field(default_factory=list)

    def run(self, name: str) -> Synced:
        """Deliver; return what came of it."""
        pause_s, error = 0.0, ""
        for attempt in range(_ATTEMPTS):
            time.sleep(max(attempt * 0.5, pause_s))
            pause_s, error = 0.0, ""
            try:
                self._deliver()
            except TrackerRefusedError as refusal:
                return self._outcome(name, in_one_line(refusal))
            except Exception as failure:  # a tracker is a plugin; the next one still gets its turn
                error = in_one_line(failure)
                pause_s = failure.retry_after_s if isinstance(failure, TrackerError) else 0.0
            if not error or pause_s > _LONGEST_PAUSE_S:
                break
        return self._outcome(name, error)

    def _deliver(self) -> None:
        delivery, metrics_path = self.delivery, self.paths.metrics_path
        if not delivery.is_open:
            arrived = delivery.arrived
            delivery.open()
            for name in (self.paths.spec_path.name, self.paths.resolved_spec_path.name):
                delivery.upload(name, "spec")
            self.before = compare(delivery.tracker, metrics_path, arrived) if self.verify else None
        delivery.deliver_metrics()
        if self.before is not None:
            if self.before.missing:
                delivery.deliver_again()
            self.found = compare(delivery.tracker, metrics_path)
        self.results += delivery.deliver_results()
        if self.found is not None:
            self._verify_results(self.found)
        tracker, status = delivery.tracker, self.end.status
        report = report_for_trackers(self.paths, status, self.end.error) if tracker.wants_report else None
        with TemporaryDirectory(prefix="noether-") as place:
            wanted = tracker.wants_model and status == "FINISHED"
            model = packed_or_none(partial(_pack, self.paths), Path(place) / "model") if wanted else None
            delivery.close(status, self.end.error, report, model)

    def _verify_results(self, found: Comparison) -> None:
        """Look every result up at the tracker, and deliver those again that it has lost."""
        every = self.delivery.all_results()
        found.results, missing = len(every), self.delivery.tracker.results_missing(every)
        if missing:
            self.lost = self.lost or [_named(result) for result in missing]
            self.delivery.deliver_results_again(missing)
            missing = self.delivery.tracker.results_missing(every)
        found.absent = None if missing is None else [_named(result) for result in missing]

    def _outcome(self, name: str, error: str) -> Synced:
        delivery, found = self.delivery, self.found
        missing = delivery.remaining()
        if self.verify and not error:
            error = found.problem if found else "it cannot be verified: it does not say what it has"
            missing = len(found.missing) + len(found.absent or ()) if found else 0
        where = "" if error else delivery.tracker.description
        before = [*(self.before.missing if self.before else ()), *self.lost]
        return Synced(
            name, delivery.lines_sent, self.results, self.end.status, where, missing, error,
            points=found.points if found else 0,
            compared=found.results if found and found.absent is not None else 0,
            resent=max(0, len(before) - (len(found.missing) + len(found.absent or ()) if found else 0)),
            lost=tuple(before[:_SHOWN]),
        )  # fmt: skip


def _pack(paths: PathProvider, folder: Path) -> PackedModel:
    from noether.runs.predict.pack import pack_model  # imports torch, which no other delivery needs

    return pack_model(paths, folder)


def _named(result: Result) -> str:
    return f"{result.kind} {result.key!r} at update {result.update}"


def _end_of(paths: PathProvider) -> _End:
    last = last_attempt(paths.attempts_path)
    if last is None:
        raise UsageError(f"{paths.run_path} has no attempts: nothing was trained", hint="start the run")
    first = read_record(paths.run_path, record_path(paths.attempts_path, 1))
    started = _time(first.get("started")) or _changed(paths.resolved_spec_path)
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


def _time(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _changed(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0
