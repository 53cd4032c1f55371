"""Compares the attempts at an interrupted run with a run that was not interrupted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from noether.checkpoint.folder import checkpoint_name, read_manifest
from noether.checkpoint.paths import PathProvider
from noether.checkpoint.state import CALLBACKS
from noether.runs.interruption import Interruption, Remembered
from noether.runs.metrics_difference import clock_keys, metric_difference
from noether.runs.step_difference import Difference, clock_places, differences

_WHAT = "weights, optimizer, averages, callbacks, RNG, counters"
_NONSCALARS = "nonscalars.jsonl"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a run.

    Attributes:
        paths: Those of the run.
        recorder: What it noted.
        was_interrupted: Whether another one follows.
    """

    paths: PathProvider
    recorder: Interruption
    was_interrupted: bool = False

    @property
    def end(self) -> int:
        """The update at which it ended."""
        return max(self.recorder.at_checkpoints, default=0)

    def kept(self, update: int) -> Path:
        """Return the copy of the checkpoint of an update."""
        return self.recorder.kept / checkpoint_name(update)


@dataclass(frozen=True, slots=True)
class Compared:
    """What was compared at one point of the runs.

    Attributes:
        where: After which update, and whether that is an interruption or the end.
        what: What was compared there.
        difference: The first difference; None where every bit is the same.
        more: How many other files differ as well.
        before_any: Whether nothing had been interrupted yet.
    """

    where: str
    what: str
    difference: str | None
    more: int = 0
    before_any: bool = False


class Comparison:
    """A run that was not interrupted beside the attempts at the same run that was.

    What differs before the first interruption, as a measured time does, says nothing about resuming and is left out.

    Args:
        straight: The first one.
        attempts: The attempts at the other one, in their order.
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
        """What was left out."""
        return (*sorted(self._clock_keys), *sorted(self._clock_places))

    def compared(self) -> tuple[Compared, ...]:
        """Compare all checkpoints, the metrics, and the files that callbacks have written.

        Raises:
            CheckpointError: A checkpoint is damaged.
        """
        steps = [self._checkpoint(attempt) for attempt in self.attempts]
        return (*steps, self._metrics(), *self._files())

    def forgotten(self) -> tuple[str, ...]:
        """Return what callbacks did not know any more when the run went on.

        Of those that are built in, only who has results that differ is named: some begin anew on purpose, such as one
        that measures a rate.
        """
        suspects = self._involved | self.straight.recorder.foreign
        told: dict[tuple[str, str], str] = {}
        for attempt in self.attempts[1:]:
            at = attempt.recorder.started_at
            before = self.straight.recorder.at_checkpoints.get(at, {})
            for owner, name, value, now in _forgotten(before, attempt.recorder.at_start):
                if owner in suspects and (owner, name) not in self._clock_attributes:
                    text = f"callback '{owner}': {name} was {value} after update {at}, and {now} when the run went on"
                    told.setdefault((owner, name), text)
        return tuple(told.values())

    def _checkpoint(self, attempt: Attempt) -> Compared:
        where = f"{'interrupted' if attempt.was_interrupted else 'end'} after update {attempt.end}"
        if not self.straight.kept(attempt.end).exists():
            return Compared(where, "length", f"the straight run ended after update {self.straight.end}")
        step = attempt.kept(attempt.end)
        found = differences(self.straight.kept(attempt.end), step, self._clock_places)
        self._involved.update(owner for difference in found for owner in self._owners(difference))
        return Compared(
            where,
            what=f"{len(read_manifest(step).files)} files: {_WHAT}",
            difference=str(found[0]) if found else None,
            more=max(len(found) - 1, 0),
            before_any=attempt is self.attempts[0],
        )

    def _owners(self, difference: Difference) -> Iterator[str]:
        """Yield the callbacks whose state a difference is in."""
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
        """Compare what callbacks keep beside the metrics, where there is any."""
        sides = [dict(_written(side.paths)) for side in (self.straight, self.attempts[-1])]
        names = sides[0].keys() | sides[1].keys()
        if names:
            different = sorted(name for name in names if sides[0].get(name) != sides[1].get(name))
            first = f"{different[0]}: not what the straight run wrote" if different else None
            yield Compared("whole run", f"{len(names)} files of callbacks", first, max(len(different) - 1, 0))


def _written(paths: PathProvider) -> Iterator[tuple[str, object]]:
    """Yield the files that callbacks have written, by name with their content; non-scalars without their times."""
    for path in sorted(paths.outputs_path.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(paths.run_path)), path.read_bytes()
    nonscalars = paths.run_path / _NONSCALARS
    if nonscalars.exists():
        lines = [json.loads(line) for line in nonscalars.read_text("utf-8").splitlines()]
        yield _NONSCALARS, [{key: value for key, value in line.items() if key != "time"} for line in lines]


def _forgotten(before: Remembered, now: Remembered) -> Iterable[tuple[str, str, str, str]]:
    """Yield callback, attribute and both values where they differ."""
    for owner in before.keys() & now.keys():
        for name in sorted(before[owner].keys() & now[owner].keys()):
            if before[owner][name] != now[owner][name]:
                yield owner, name, before[owner][name], now[owner][name]
