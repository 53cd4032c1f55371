"""The journal of a sweep: its trials with their values and ends, in one file that is replaced at once. No torch."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from os import fdopen
from pathlib import Path
from typing import Any, BinaryIO

from noether.checkpoint.durable import make_folders, replace_file, storage_error
from noether.checkpoint.paths import PathProvider
from noether.checkpoint.untrusted import open_inside, parse_json, read_untrusted
from noether.errors import StorageError, UsageError
from noether.metrics.metrics_file import lines_of
from noether.runs.folder.lock import RunLock, holder_of
from noether.runs.outcome import IS_BROKEN
from noether.runs.results.summary import summary_of
from noether.spec.errors.words import toml_literal
from noether.spec.sweep import Objective, key_of

_FORMAT = 1
_NAME = "sweep.json"
_STATE = "state"  # a folder of its own: a folder with a LOCK in it would be listed as a damaged run
OUTPUT, PLOTS = "output", "plots"
"""Folders of a sweep with what trials have printed, and with Optuna's plots."""
_SUFFIX = ".sweep"
LONGEST_ERROR = 300  # characters

WAITING, RUNNING, STOPPED, FAILED = "waiting", "running", "stopped", "failed"
FINISHED, BROKE, PRUNED = "finished", "expect failed", "pruned"
WITH_VALUE = (FINISHED, BROKE, PRUNED)
"""States of trials that have come to their end, and have a value."""
_ORDER = {FINISHED: 0, BROKE: 0, PRUNED: 1, RUNNING: 2, STOPPED: 3, WAITING: 4, FAILED: 5}


@dataclass(slots=True)
class Trial:
    """One run of a sweep.

    Attributes:
        number: Its number, from 1.
        values: Its values by path.
        state: waiting, running, stopped, finished, expect failed, pruned or failed.
        wanted: False if the `[sweep]` table has no such trial any more.
        final: The last value of the metric; None if there is none.
        best: Its best value that is a number.
        seconds: Time of all attempts at the run.
        error: Reason for an end that is not its own.
        reports: Updates and values that the pruner has seen.
        doomed: True if the pruner has decided to end it.
        sampler: What the sampler keeps with the trial.
    """

    number: int
    values: dict[str, Any]
    state: str = WAITING
    wanted: bool = True
    final: float | None = None
    best: float | None = None
    seconds: float | None = None
    error: str | None = None
    reports: list[list[float]] = field(default_factory=list)
    doomed: bool = False
    sampler: dict[str, Any] = field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        """True if it is not run again: it came to its end, or failed."""
        return self.state in (*WITH_VALUE, FAILED)

    def value(self, objective: Objective) -> float | None:
        """Return the value of the metric that counts; None if there is none, or it is not finite."""
        found = self.best if objective.value == "best" else self.final
        return found if found is not None and math.isfinite(found) else None


@dataclass(slots=True)
class Record:
    """Content of a journal.

    Attributes:
        name: Name of the sweep.
        spec: The spec file, as it was named.
        method: grid, random or optuna.
        objective: The metric that compares the trials.
        base: Tables of the resolved spec without the values of a trial.
        trials: The trials, in the order of their numbers.
        study: What the sampler keeps with the sweep.
        created: Start of the sweep, in seconds since 1970.
    """

    name: str
    spec: str
    method: str
    objective: Objective
    base: dict[str, Any]
    trials: list[Trial] = field(default_factory=list)
    study: dict[str, Any] = field(default_factory=dict)
    created: float = field(default_factory=time.time)

    def find(self, values: Mapping[str, Any]) -> Trial | None:
        """Return the trial with these values."""
        key = key_of(values)
        return next((trial for trial in self.trials if key_of(trial.values) == key), None)

    def add(self, values: Mapping[str, Any]) -> Trial:
        """Add a trial with the next number."""
        self.trials.append(Trial(len(self.trials) + 1, dict(values)))
        return self.trials[-1]

    def ranked(self) -> list[Trial]:
        """Return the trials, the best first: those that finished, then pruned, unfinished and failed ones."""

        def place(trial: Trial) -> tuple[int, float, int]:
            value = trial.value(self.objective)
            cost = math.inf if value is None else self.objective.cost(value)
            return _ORDER[trial.state], cost, trial.number

        return sorted(self.trials, key=place)

    def winner(self) -> Trial | None:
        """Return the best trial of the table that has finished."""
        ended = (one for one in self.trials if one.wanted and one.state in (FINISHED, BROKE))
        found = [one for one in ended if one.value(self.objective) is not None]
        return min(found, key=lambda one: self.objective.cost(one.value(self.objective) or 0.0), default=None)


class Journal:
    """The folder of a sweep, `<output>/<name>.sweep`.

    Args:
        output: Folder that holds one folder a run.
        name: Name of the sweep.
    """

    def __init__(self, output: str | Path, name: str) -> None:
        self.output, self.name = Path(output), name
        self.folder = self.output / f"{name}{_SUFFIX}"
        self._state = self.folder / _STATE

    @classmethod
    def at(cls, place: str | Path, output: Path) -> Journal | None:
        """Return the sweep whose folder a user names, by its path or its name in `output`; None if it is not one."""
        for folder in (Path(place), output / place):
            if folder.name.endswith(_SUFFIX) and os.path.lexists(folder / _NAME):
                return cls(folder.resolve().parent, folder.resolve().name.removesuffix(_SUFFIX))
        return None

    @property
    def exists(self) -> bool:
        """True if the sweep was begun before."""
        return (self.folder / _NAME).is_file()

    @property
    def holder(self) -> str | None:
        """The end of a sentence that names the process that conducts the sweep; None if there is none."""
        return holder_of(self._state)

    def run_id(self, trial: Trial) -> str:
        """Return the name of the run of a trial."""
        return f"{self.name}-{trial.number:03d}"

    def paths(self, trial: Trial) -> PathProvider:
        """Return the paths of the run of a trial."""
        return PathProvider(self.output, self.run_id(trial))

    def open_output(self, trial: Trial) -> BinaryIO:
        """Open the file that takes what the process of a trial prints, to append to it."""
        name = f"{OUTPUT}/{self.run_id(trial)}.txt"
        return fdopen(open_inside(self.folder, name, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab")

    def output_of(self, trial: Trial) -> str:
        """Return what the processes of a trial have printed.

        Raises:
            OSError: if it cannot be read.
        """
        return read_untrusted(self.folder, f"{OUTPUT}/{self.run_id(trial)}.txt").decode(errors="replace")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, and keep other sweeps of this name out.

        Raises:
            UsageError: if another process conducts it.
            StorageError: if the disk refuses.
        """
        try:
            make_folders(self._state)
            make_folders(self.folder / OUTPUT)
        except OSError as error:
            raise storage_error(error, self.folder) from error
        if (holder := self.holder) is not None:
            raise UsageError(
                f"the sweep {self.name} is conducted{holder} already",
                hint="look at it with --status, stop that process, or give this one another --name",
            )
        with RunLock(self._state):
            yield

    def write(self, record: Record) -> None:
        """Replace the journal.

        Raises:
            StorageError: if the disk refuses; the former one stays.
        """
        body = {"format": _FORMAT, **asdict(record)}
        replace_file(self.folder / _NAME, (json.dumps(body, indent=1, default=str) + "\n").encode())

    def read(self) -> Record:
        """Return the journal.

        Raises:
            UsageError: if there is no sweep of this name.
            StorageError: if the file is damaged, or of another version.
        """
        path = self.folder / _NAME
        if not self.exists:
            known = sorted(one.parent.name.removesuffix(_SUFFIX) for one in self.output.glob(f"*{_SUFFIX}/{_NAME}"))
            raise UsageError(
                f"unknown sweep: found no {self.name!r} in {self.output}",
                hint=f"it has {', '.join(known)}" if known else "start it without --status",
            )
        try:
            return _record(parse_json(read_untrusted(self.folder, _NAME)))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise StorageError(
                f"{path} is damaged, or was written by another version: {error}",
                hint="restore it from a backup, or give the sweep another --name",
            ) from error


def _record(body: dict[str, Any]) -> Record:
    if body.pop("format") != _FORMAT:
        raise ValueError(f"expected format {_FORMAT}")
    body["objective"] = Objective(**body["objective"])
    body["trials"] = [Trial(**one) for one in body["trials"]]
    record = Record(**{one.name: body.pop(one.name) for one in fields(Record)})
    if body or not all(map(_is_sound, record.trials)):
        raise ValueError(f"unknown fields, or values of a wrong type: {', '.join(body)}")
    return record


def _is_sound(trial: Trial) -> bool:
    numbers = (trial.final, trial.best, trial.seconds)
    return (
        trial.state in _ORDER
        and type(trial.number) is int
        and isinstance(trial.values, dict)
        and all(number is None or type(number) in (int, float) for number in numbers)
    )


def read_now(journal: Journal) -> Record:
    """Return the journal, with trials that run as their folders are now; see `Journal.read` for the errors."""
    record = journal.read()
    for trial in record.trials:
        if trial.state == RUNNING:
            trial.state = look(journal, record, trial)
    return record


def cells_of(values: Mapping[str, Any]) -> dict[str, str]:
    """Return values as text, by the last part of their path, or by the whole path if two would have one name."""
    short = {path: path.rpartition(".")[2] for path in values}
    names = list(short.values())
    return {(name if names.count(name) == 1 else path): shown_value(values[path]) for path, name in short.items()}


def shown_value(value: Any) -> str:
    """Return a value as TOML, a number with six digits."""
    return f"{value:.6g}" if isinstance(value, float) else toml_literal(value)


def look(journal: Journal, record: Record, trial: Trial) -> str:
    """Read values, time and error of a trial from its run folder; return the state that the folder shows."""
    paths, objective = journal.paths(trial), record.objective
    if not paths.run_path.exists():
        return WAITING
    summary = summary_of(paths)
    values = list(_values(paths, objective.metric))
    finite = [value for value in values if math.isfinite(value)]
    trial.seconds = summary.seconds
    trial.final = next((value for value in values[-1:] if math.isfinite(value)), None)
    trial.best = min(finite, key=objective.cost, default=None)
    trial.error = next((line[:LONGEST_ERROR] for line in (summary.error or "").strip().splitlines()), None)
    has_broken = summary.status == "FAILED" and trial.error is not None and trial.error.startswith(IS_BROKEN)
    if summary.status == "FINISHED" or has_broken:
        if trial.value(objective) is None:
            trial.error = trial.error or f"{objective.metric} has no value that is a number"
        return PRUNED if trial.doomed else BROKE if has_broken else FINISHED
    return {"FAILED": FAILED, "RUNNING": RUNNING}.get(summary.status, STOPPED)


def _values(paths: PathProvider, key: str) -> Iterator[float]:
    """Yield the values of a metric of a run; damaged lines are left out."""
    text = json.dumps(key).encode()
    with suppress(OSError, StorageError):
        for line in lines_of(paths.run_path, paths.metrics_path):
            if text in line:
                with suppress(ValueError, KeyError, TypeError, RecursionError):
                    yield float(json.loads(line)["metrics"][key])
