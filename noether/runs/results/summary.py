"""Summaries of runs, from their folders and without PyTorch: state, spec, evaluation metrics, checkpoints."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from noether.checkpoint.manifest import SPEC
from noether.checkpoint.paths import PathProvider, shown_path
from noether.config.metric_facts import Direction, metric_direction
from noether.errors import NoetherError, UsageError
from noether.runs.folder.lock import NAME as LOCK
from noether.runs.folder.lock import is_locked
from noether.runs.folder.run_folder import FORMAT, RUN, Attempt, find_run, other_version, read_run, recent_attempts
from noether.runs.results.checkpoints import Listed, list_checkpoints
from noether.runs.results.scan import Scan, Series, scan_metrics
from noether.runs.saved_spec import has_saved_spec, read_saved_spec

RunState = Literal["FINISHED", "FAILED", "KILLED", "RUNNING", "UNKNOWN"]
_MARKS = (RUN, LOCK, SPEC, "metrics.jsonl", "checkpoints", "attempts")
"""Files and folders of a run; a folder with one of the others and no `run.json` is a damaged run."""
_BEST_MODEL = "best_model."


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The values of one evaluation metric.

    Attributes:
        key: The metric key.
        final: Its last value.
        final_update: Update of the last value.
        best: Its best value that is a number; None if there is none, or the direction is not known.
        best_update: The first update that has it.
        direction: `min` if lower is better, `max` if higher is, None if that is not known.
        checkpoint: A checkpoint on disk at `best_update`; None if there is none.
        final_epoch: Completed epochs at `final_update`.
        best_epoch: Completed epochs at `best_update`.
    """

    key: str
    final: float
    final_update: int
    best: float | None
    best_update: int | None
    direction: Literal["min", "max"] | None
    checkpoint: str | None = None
    final_epoch: int = 0
    best_epoch: int | None = None


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run, as its folder has it; damaged parts are empty, and `problem` names the first of them.

    Attributes:
        paths: Paths of the run.
        run_id: Name of its folder.
        name: Name of its spec.
        status: FINISHED, FAILED, KILLED, RUNNING while a process works on it, UNKNOWN if no attempt has begun.
        created: Start of the run in seconds since 1970; None if it is not known.
        seconds: Time of all attempts together.
        update: Updates of the last line of its metrics; completed epochs and samples are `epoch` and `sample`.
        seed: Seed of the spec.
        tables: The resolved spec.
        metrics: The last value by metric key.
        evaluations: Those that evaluations log, in the order in which they were logged first.
        error: Reason for the end of a run that failed or was killed.
        problem: Reason why a part of the folder cannot be read; None if all can.
        attempts: Records of the attempts, the oldest first.
        checkpoints: The checkpoints on disk, the oldest first.
    """

    paths: PathProvider
    run_id: str
    name: str
    status: RunState = "UNKNOWN"
    created: float | None = None
    seconds: float = 0.0
    update: int = 0
    epoch: int = 0
    sample: int = 0
    seed: int | None = None
    tables: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    evaluations: tuple[Evaluated, ...] = ()
    error: str | None = None
    problem: str | None = None
    attempts: tuple[Attempt, ...] = ()
    checkpoints: tuple[Listed, ...] = ()

    def evaluated(self, key: str) -> Evaluated | None:
        """Return the values of an evaluation metric; of another metric only the last one; None if it has neither."""
        found = next((one for one in self.evaluations if one.key == key), None)
        if found is None and key in self.metrics:
            return Evaluated(key, self.metrics[key], self.update, None, None, None)
        return found


def summaries_in(output: Path) -> list[RunSummary]:
    """Return the summaries of all runs in a folder, the oldest first, damaged runs too.

    Raises:
        UsageError: if the folder does not exist, or is a run or a file.
    """
    if not output.is_dir():
        found = "a file" if output.exists() else "nothing there"
        raise UsageError(
            f"wrong folder of runs: found {found} at {output}, expected a folder that holds one folder a run",
            hint="name the `output` of a spec; by default it is `runs` in the working folder",
        )
    if os.path.lexists(output / RUN):
        raise UsageError(
            f"wrong folder of runs: found the run {output}, expected the folder that holds it",
            hint=f"noether runs show {output}, or noether runs list {output.parent}",
        )
    runs = [summary_of(PathProvider(folder.parent, folder.name)) for folder in folders_of_runs(output)]
    return sorted(runs, key=lambda one: (one.created or 0.0, one.run_id))


def folders_of_runs(output: Path) -> Iterator[Path]:
    """Yield the folders that are runs, or were, each once; a link to one counts, as it does for `find_run`."""
    found = (folder for folder in sorted(output.iterdir()) if any(os.path.lexists(folder / mark) for mark in _MARKS))
    yield from dict.fromkeys(folder.resolve() for folder in found)


def told_apart(runs: Sequence[RunSummary]) -> list[RunSummary]:
    """Return runs with ids that differ: those that share one are called by their paths."""
    ids = Counter(run.run_id for run in runs)
    return [replace(run, run_id=str(shown_path(run.paths.run_path))) if ids[run.run_id] > 1 else run for run in runs]


def summary_of_run(run: str | Path, output: str | Path = "runs") -> RunSummary:
    """Return the summary of a run that a user names by its folder or id; see `find_run` for the errors."""
    return summary_of(find_run(run, output, of_any_version=True))


def summary_of(paths: PathProvider) -> RunSummary:
    """Return the summary of a run; nothing in its folder makes this fail."""
    problems = _Problems()
    record = read_run(paths.run_path)
    if not record:
        problems.add(f"{RUN} is missing, damaged or not a plain file")
    elif (found := other_version(paths.run_path)) is not None:
        problems.add(f"another version wrote it: found {found}, expected {FORMAT}")
    attempts: tuple[Attempt, ...] = ()
    checkpoints: tuple[Listed, ...] = ()
    tables: dict[str, Any] = {}
    scan = Scan()
    with problems:
        attempts = tuple(reversed(list(recent_attempts(paths.attempts_path, None))))
    with problems:
        tables = read_saved_spec(paths).tables if attempts or has_saved_spec(paths) else {}
    with problems:
        scan = scan_metrics(paths)
    with problems:
        checkpoints = tuple(list_checkpoints(paths.checkpoint_path))
    status, error = _end_of(paths, attempts)
    if lost := scan.damaged + (scan.is_cut and status in ("FINISHED", "FAILED")):
        word = "line" if lost == 1 else "lines"
        problems.add(f"{paths.metrics_path.name} has {lost:,} damaged {word}: values in it are left out")
    name, seed = tables.get("name"), tables.get("seed")
    return RunSummary(
        paths, paths.run_id, name if isinstance(name, str) else paths.run_id, status,
        created=_created(record, attempts),
        seconds=_seconds(attempts, scan, is_going=status == "RUNNING"),
        update=scan.update, epoch=scan.epoch, sample=scan.sample,
        seed=seed if type(seed) is int else None,
        tables=tables,
        metrics=scan.metrics,
        evaluations=tuple(_evaluations(scan, tables, checkpoints)),
        error=error,
        problem=problems.first,
        attempts=attempts,
        checkpoints=checkpoints,
    )  # fmt: skip


class _Problems:
    """Context manager that keeps the first reason why a part cannot be read, and goes on."""

    def __init__(self) -> None:
        self.first: str | None = None

    def add(self, problem: str) -> None:
        self.first = self.first or problem

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> bool:
        if not isinstance(error, NoetherError | OSError | ValueError):
            return False
        self.add(error.message if isinstance(error, NoetherError) else f"{error}")
        return True


def _end_of(paths: PathProvider, attempts: tuple[Attempt, ...]) -> tuple[RunState, str | None]:
    """Return the state of a run, and the reason for its end if it is not its own."""
    if is_locked(paths.run_path):
        return "RUNNING", None
    if not attempts:
        return "UNKNOWN", None
    last = attempts[-1]
    if last.status == "FINISHED":
        return "FINISHED", None
    if last.status == "RUNNING":  # and holds no lock
        return "KILLED", "the process ended without a word: it was killed, or the machine stopped"
    reason = last.record.get("reason")
    return ("FAILED" if last.status == "FAILED" else "KILLED"), str(reason) if reason else None


def _seconds(attempts: tuple[Attempt, ...], scan: Scan, *, is_going: bool) -> float:
    """Return the time of all attempts; one that has not recorded its end ended with its last metrics."""
    total = 0.0
    for number, attempt in enumerate(attempts, start=1):
        started, ended = attempt.time_of("started"), attempt.time_of("ended")
        if ended is None and number == len(attempts):
            ended = time.time() if is_going else scan.time
        if started is not None and ended is not None:
            total += max(0.0, ended - started)
    return total


def _created(record: dict[str, Any], attempts: tuple[Attempt, ...]) -> float | None:
    times = (Attempt(0, record).time_of("created"), *(attempt.time_of("started") for attempt in attempts))
    return next((time for time in times if time is not None), None)


def _evaluations(scan: Scan, tables: Mapping[str, Any], checkpoints: Iterable[Listed]) -> Iterator[Evaluated]:
    declared = dict(_declared_directions(tables))
    by_update = {one.update: one for one in checkpoints if one.manifest is not None}
    for key, series in scan.series.items():
        found = _evaluated(key, series, declared.get(key) or metric_direction(key))
        saved = by_update.get(found.best_update) if found.best_update is not None else None
        yield found if saved is None else replace(found, checkpoint=_name_of(saved, key))


def _evaluated(key: str, series: Series, better: Direction | None) -> Evaluated:
    direction: Literal["min", "max"] | None = {"lower": "min", "higher": "max"}.get(better or "")  # type: ignore[assignment]
    best = {"min": series.lowest, "max": series.highest}.get(direction or "")
    value, update, epoch = best or (None, None, None)
    return Evaluated(
        key, series.final, series.final_update, value, update, direction,
        final_epoch=series.final_epoch, best_epoch=epoch,
    )  # fmt: skip


def _declared_directions(tables: Any) -> Iterator[tuple[str, Direction]]:
    """Yield the directions that a spec states: by `higher_is_better` of its callbacks, and by bounds of `[expect]`."""
    expected = tables.get("expect")
    for key, bound in expected.items() if isinstance(expected, dict) else ():
        if isinstance(bound, dict) and len(bound.keys() & {"min", "max"}) == 1:
            yield key, "lower" if "max" in bound else "higher"
    trainer = tables.get("trainer")
    waiting = [trainer.get("callbacks") if isinstance(trainer, dict) else None]
    while waiting:
        items = waiting.pop()
        for table in (one for one in items if isinstance(one, dict)) if isinstance(items, list) else ():
            higher = table.get("higher_is_better")
            for name in ("metric_key", "source_metric_key"):
                if isinstance(higher, bool) and isinstance(table.get(name), str):
                    yield table[name], "higher" if higher else "lower"
            waiting += [value for value in table.values() if isinstance(value, list)]


def _name_of(checkpoint: Listed, key: str) -> str:
    """Return the name of a checkpoint: the one that was given to it as the best of this metric, else its position."""
    given = _BEST_MODEL + key.replace("/", ".")
    return given if given in checkpoint.names else checkpoint.name
