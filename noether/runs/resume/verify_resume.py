"""`noether verify-resume`: the same run straight and interrupted, compared bit by bit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from noether.checkpoint.paths import PathProvider, checkpoint_name, read_manifest
from noether.checkpoint.state import CALLBACKS
from noether.errors import TrainingError, UsageError
from noether.kernel.participant import Participant
from noether.kernel.progress import UpdateCounter
from noether.metrics.results import RESULTS_INDEX
from noether.metrics.values import NONSCALARS
from noether.runs.execution import Execution
from noether.runs.outcome import Outcome, describe
from noether.runs.prepare import preparation, rehearsal
from noether.runs.resume.compare import (
    Difference,
    Interruption,
    Remembered,
    clock_keys,
    clock_places,
    differences,
    metric_difference,
)
from noether.spec.load import LoadedSpec, load_spec
from noether.spec.model import RunSpec

_SHORT, _LONGEST = 100, 500  # updates


@dataclass(frozen=True, slots=True)
class Report:
    """Result of the comparison.

    Attributes:
        name: Name of the run.
        updates: Updates of both runs.
        updates_per_epoch: Updates of an epoch.
        points: Comparisons at each interruption, and at the end.
        not_compared: Places that differ without any interruption, such as measured times.
        forgotten: Values that callbacks with different results had lost when the run continued.
    """

    name: str
    updates: int
    updates_per_epoch: int
    points: tuple[Compared, ...]
    not_compared: tuple[str, ...]
    forgotten: tuple[str, ...]

    @property
    def is_equal(self) -> bool:
        """True if nothing differs."""
        return all(point.difference is None for point in self.points)


def verify_resume(
    spec: str | Path,
    *,
    overrides: Sequence[str] = (),
    at: Sequence[int] | None = None,
    updates: int | None = None,
    plugins: Iterable[str] = (),
    trusted: Iterable[str] = (),
) -> Report:
    """Run a spec straight and interrupted, and compare both at every interruption and at the end.

    Both runs are attempts of this process, in the main thread, since a real SIGTERM interrupts them.

    Args:
        spec: The TOML file.
        overrides: Overrides as on the command line.
        at: Updates after which to interrupt; by default the first, within and at the end of an epoch, the last but one.
        updates: Number of updates; by default two epochs, or a little more than one if that is long.
        plugins: Run plugins beside those that the spec uses.
        trusted: Further packages that dotted kinds may import.

    Raises:
        UsageError: if the spec is wrong, trains nothing, or ends before an interruption.
        TrainingError: if one of the runs failed.
    """
    plugins = list(plugins)
    loaded = load_spec(spec, overrides, trust=trusted, plugins=plugins)
    with TemporaryDirectory(prefix="noether-") as folder, redirect_stdout(StringIO()):
        with rehearsal(loaded, plugins) as run:
            counter = run.trainer.update_counter
        end = _length(counter, updates)
        points = _points(counter, end, at)
        changes = _changes(loaded.spec, Path(folder), end if end < counter.end_update else None)
        short = load_spec(spec, overrides, changes, trust=trusted, plugins=plugins)
        comparison = _Pair(short, plugins, Path(folder)).comparison(points)
        compared = comparison.compared()
        forgotten = () if all(point.difference is None for point in compared) else comparison.forgotten()
    return Report(
        loaded.spec.name,
        updates=comparison.straight.end,
        updates_per_epoch=counter.updates_per_epoch,
        points=compared,
        not_compared=comparison.not_compared,
        forgotten=forgotten,
    )


class _Pair:
    """Both runs.

    Args:
        loaded: The shortened spec.
        plugins: Run plugins beside those that it uses.
        output: Folder of both runs.
    """

    def __init__(self, loaded: LoadedSpec, plugins: list[str], output: Path) -> None:
        self.loaded = loaded
        self.plugins = plugins
        self.output = output

    def comparison(self, points: Sequence[int]) -> Comparison:
        """Run both, interrupted after these updates.

        Raises:
            UsageError: if the run ends before the first of them.
        """
        straight = self.straight(points)
        reached = [point for point in points if point < straight.end]
        if not reached:
            raise UsageError(
                f"the run ends after update {straight.end}, before it could be interrupted",
                hint="--at takes the updates, --updates makes the run longer",
            )
        return Comparison(straight, self.interrupted(reached))

    def straight(self, points: Sequence[int]) -> Attempt:
        """Run without an interruption; save at the updates at which the other run is interrupted."""
        recorder = Interruption(points, self.output / "kept-straight", interrupts=False)
        paths = PathProvider(self.output, "straight")
        self._attempt(paths, recorder)
        return Attempt(paths, recorder)

    def interrupted(self, points: Sequence[int]) -> list[Attempt]:
        """Run, be interrupted, and continue in the same folder until the end; return every attempt."""
        paths = PathProvider(self.output, "interrupted")
        attempts: list[Attempt] = []
        while not attempts or attempts[-1].was_interrupted:
            recorder = Interruption(points[len(attempts) :], self.output / "kept-interrupted", interrupts=True)
            outcome = self._attempt(paths, recorder, after=attempts[-1].end if attempts else None)
            attempts.append(Attempt(paths, recorder, was_interrupted=outcome.status == "KILLED"))
        return attempts

    def _attempt(self, paths: PathProvider, recorder: Interruption, *, after: int | None = None) -> Outcome:
        extra = Participant("verify-resume", "verify-resume", recorder, is_plugin=True)
        with preparation(self.loaded, self.plugins, extras=[extra]) as prepared:
            outcome = Execution(prepared, paths, resume="auto", quiet=True).run()
        if outcome.status == "KILLED" and not recorder.has_interrupted:
            raise SystemExit(outcome.exit_code)  # a signal from outside ends the whole command
        if outcome.error is not None and outcome.status == "FAILED":
            which = "the run fails" if after is None else f"resumed after update {after}, the run fails"
            raise TrainingError(f"{which}: {describe(outcome.error)}") from outcome.error
        return outcome


def _length(counter: UpdateCounter, wanted: int | None) -> int:
    """Return the number of updates to train."""
    if not counter.end_update:
        raise UsageError("the run trains nothing, so there is nothing to resume")
    epoch = counter.updates_per_epoch
    short = min(max(min(2 * epoch, _SHORT), epoch + epoch // 10 + 1), _LONGEST)
    return min(counter.end_update, wanted or short)


def _points(counter: UpdateCounter, end: int, at: Sequence[int] | None) -> list[int]:
    """Return the updates after which to interrupt."""
    epoch = counter.updates_per_epoch
    if at is None:
        return sorted({point for point in (1, epoch // 2, epoch, end - 1) if counter.update < point < end})
    if wrong := [point for point in at if not counter.update < point < end]:
        raise UsageError(
            f"a run of {end} updates cannot be interrupted after {', '.join(map(str, wrong))}",
            hint=f"give numbers from {counter.update + 1} to {end - 1}; --updates makes the runs longer",
        )
    return sorted(set(at))


def _changes(spec: RunSpec, output: Path, end: int | None) -> dict[str, Any]:
    """Return overrides that track, expect and leave behind nothing, and end the runs earlier."""
    changes: dict[str, Any] = {"output": str(output), "trackers": [{"kind": "noop"}], "expect": None}
    changes["checkpoints.asynchronous"] = (
        False  # attributes of callbacks are noted when a checkpoint has been committed
    )
    if end is not None:
        changes |= {"trainer.max_epochs": None, "trainer.max_samples": None, "trainer.max_updates": end}
    for place, initializer in (("initializer", spec.initializer), ("trainer.initializer", spec.trainer.initializer)):
        run_id = getattr(initializer, "run_id", None)
        if run_id is not None:  # it is looked up below the output of the spec
            changes |= {f"{place}.run_id": None, f"{place}.path": str(Path(spec.output).absolute() / run_id)}
    return changes


_CONTENT = "weights, optimizer, averages, callbacks, RNG, counters"
_LISTS = (NONSCALARS, RESULTS_INDEX)  # the lines of results hold the hashes of their files


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a run.

    Attributes:
        paths: Paths of the run.
        recorder: Records of the attempt.
        was_interrupted: True if another attempt follows.
    """

    paths: PathProvider
    recorder: Interruption
    was_interrupted: bool = False

    @property
    def end(self) -> int:
        """Update at which the attempt ended."""
        return max(self.recorder.at_checkpoints, default=0)

    def kept(self, update: int) -> Path:
        """Return the copy of the checkpoint of an update."""
        return self.recorder.kept / checkpoint_name(update)


@dataclass(frozen=True, slots=True)
class Compared:
    """Comparison at one point of the runs.

    Attributes:
        where: The update, and the word for an interruption or the end.
        what: Content that was compared.
        difference: The first difference; None if every bit is equal.
        more: Number of other files that differ.
        before_any: True at the first interruption, before which nothing was interrupted.
    """

    where: str
    what: str
    difference: str | None
    more: int = 0
    before_any: bool = False


class Comparison:
    """Comparison of a straight run with the attempts at an interrupted one.

    Places that differ before the first interruption, such as measured times, are left out.

    Args:
        straight: The straight run.
        attempts: The attempts at the interrupted run, in their order.
    """

    def __init__(self, straight: Attempt, attempts: Sequence[Attempt]) -> None:
        self.straight = straight
        self.attempts = attempts
        first = attempts[0].end
        both = straight.kept(first), attempts[0].kept(first)
        self._clock_places = clock_places(*both) if both[0].exists() else frozenset()
        self._clock_keys = clock_keys(straight.paths.metrics_path, attempts[0].paths.metrics_path, first)
        before = (side.recorder.at_checkpoints.get(first, {}) for side in (straight, attempts[0]))
        self._clock_attributes = {(owner, name) for owner, name, *_ in _forgotten(*before)}
        self._involved: set[str] = set()  # ids of callbacks whose state or metrics differ

    @property
    def not_compared(self) -> tuple[str, ...]:
        """Metric keys and places that were left out."""
        return (*sorted(self._clock_keys), *sorted(self._clock_places))

    def compared(self) -> tuple[Compared, ...]:
        """Compare all checkpoints, the metrics, and the files that callbacks have written.

        Raises:
            CheckpointError: if a checkpoint is damaged.
        """
        points = [self._checkpoint(attempt) for attempt in self.attempts]
        return (*points, self._metrics(), *self._files())

    def forgotten(self) -> tuple[str, ...]:
        """Return the values that callbacks had lost when the run continued.

        A built-in callback is only named if its results differ: some start anew on purpose, such as one that measures
        a rate.
        """
        suspects = self._involved | self.straight.recorder.foreign
        told: dict[tuple[str, str], str] = {}
        for attempt in self.attempts[1:]:
            at = attempt.recorder.started_at
            before = self.straight.recorder.at_checkpoints.get(at, {})
            for owner, name, value, now in _forgotten(before, attempt.recorder.at_start):
                if owner in suspects and (owner, name) not in self._clock_attributes:
                    text = f"callback '{owner}': {name} was {value} after update {at}, and {now} when the run continued"
                    told.setdefault((owner, name), text)
        return tuple(told.values())

    def _checkpoint(self, attempt: Attempt) -> Compared:
        where = f"{'interrupted' if attempt.was_interrupted else 'end'} after update {attempt.end}"
        if not self.straight.kept(attempt.end).exists():
            return Compared(where, "length", f"the straight run ended after update {self.straight.end}")
        kept = attempt.kept(attempt.end)
        found = differences(self.straight.kept(attempt.end), kept, self._clock_places)
        self._involved.update(owner for difference in found for owner in self._owners(difference))
        return Compared(
            where,
            what=f"{len(read_manifest(kept).files)} files: {_CONTENT}",
            difference=str(found[0]) if found else None,
            more=max(len(found) - 1, 0),
            before_any=attempt is self.attempts[0],
        )

    def _owners(self, difference: Difference) -> Iterator[str]:
        """Yield the callbacks whose state has a difference."""
        for place in (difference.file, difference.place):
            for owner in self.straight.recorder.at_start:
                if place.startswith((f"{CALLBACKS}/{owner}/", f"{CALLBACKS}/{owner}.")):
                    yield owner

    def _metrics(self) -> Compared:
        metrics = [side.paths.metrics_path for side in (self.straight, self.attempts[-1])]
        found = metric_difference(metrics[0], metrics[1], self._clock_keys)
        if found is None:
            return Compared("whole run", "metrics.jsonl without times", None)
        key, detail = found
        logged_by = {
            key: owner for side in (self.straight, *self.attempts) for key, owner in side.recorder.logged_by.items()
        }
        owner = logged_by.get(key)
        self._involved.update({owner} if owner else ())
        who = f" of callback '{owner}'" if owner else ""
        return Compared("whole run", "metrics.jsonl without times", f"metrics.jsonl: {key}{who}: {detail}")

    def _files(self) -> Iterator[Compared]:
        """Compare the files that callbacks write beside the metrics, if there are any."""
        sides = [dict(_written(side.paths)) for side in (self.straight, self.attempts[-1])]
        names = sides[0].keys() | sides[1].keys()
        if names:
            different = sorted(name for name in names if sides[0].get(name) != sides[1].get(name))
            first = f"{different[0]}: not what the straight run wrote" if different else None
            yield Compared("whole run", f"{len(names)} files of callbacks", first, max(len(different) - 1, 0))


def _written(paths: PathProvider) -> Iterator[tuple[str, object]]:
    """Yield the files that callbacks have written, by name with their content; lines without their times."""
    for path in sorted(paths.outputs_path.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(paths.run_path)), path.read_bytes()
    for path in (paths.run_path / name for name in _LISTS if (paths.run_path / name).exists()):
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        yield path.name, [{key: value for key, value in line.items() if key != "time"} for line in lines]


def _forgotten(before: Remembered, now: Remembered) -> Iterable[tuple[str, str, str, str]]:
    """Yield callback, attribute and both values of each that differs."""
    for owner in before.keys() & now.keys():
        for name in sorted(before[owner].keys() & now[owner].keys()):
            if before[owner][name] != now[owner][name]:
                yield owner, name, before[owner][name], now[owner][name]
