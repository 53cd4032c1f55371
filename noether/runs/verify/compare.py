"""Comparison of an interrupted run with a straight one: checkpoints, metrics and files."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noether.checkpoint.manifest import OPTIMIZER, SPEC, WEIGHTS, Manifest
from noether.checkpoint.paths import PathProvider, checkpoint_name, read_file, read_manifest
from noether.checkpoint.saved import SavedCheckpoint
from noether.checkpoint.state import CALLBACKS, TRAINER, encode_state
from noether.metrics.metrics_file import MetricRecord, MetricsFile, spell_number
from noether.metrics.results import RESULTS_INDEX
from noether.metrics.values import NONSCALARS
from noether.runs.verify.interruption import Interruption, Remembered

CLOCK = "profiling/"
_Line = tuple[int, int, int, Mapping[str, float | str]]


def metric_difference(straight: Path, interrupted: Path, ignored: Collection[str] = ()) -> tuple[str, str] | None:
    """Return the first difference of two metrics files; None if they are equal.

    Args:
        straight: File of the run that was not interrupted.
        interrupted: File of the run that was.
        ignored: Metric keys that are not compared.

    Returns:
        The metric key, the first of its line if a whole line differs, and the difference.
    """
    lines = zip_longest(_lines(straight, ignored), _lines(interrupted, ignored))
    for one, other in lines:
        if one == other:
            continue
        if one is None or other is None or one[:3] != other[:3]:
            first = min((line for line in (one, other) if line is not None), key=lambda line: line[0])
            run, keys = "straight" if first is one else "interrupted", ", ".join(first[3])
            return next(iter(first[3])), f"only the {run} run has a line at update {first[0]} with {keys}"
        for key in sorted(one[3].keys() | other[3].keys()):
            values = one[3].get(key, "nothing"), other[3].get(key, "nothing")
            if values[0] != values[1]:
                return key, f"{values[0]} straight, {values[1]} interrupted, at update {one[0]}"
    return None


def clock_keys(straight: Path, interrupted: Path, until: int) -> frozenset[str]:
    """Return the metric keys that differ up to an update before which neither run was interrupted."""
    one, other = (
        {line[0]: line[3] for line in _lines(path, ()) if line[0] <= until} for path in (straight, interrupted)
    )
    return frozenset(
        key
        for update in one.keys() & other.keys()
        for key in one[update].keys() & other[update].keys()
        if one[update][key] != other[update][key]
    )


def _lines(path: Path, ignored: Collection[str]) -> list[_Line]:
    """Return the lines to compare; numbers that JSON lacks as text, which equals itself."""
    records = MetricsFile(path).read() if path.exists() else ()
    lines = [(record.update, record.epoch, record.sample, _compared(record, ignored)) for record in records]
    return [line for line in lines if line[3]]


def _compared(record: MetricRecord, ignored: Collection[str]) -> dict[str, float | str]:
    return {
        key: spell_number(value)
        for key, value in record.metrics.items()
        if not key.startswith(CLOCK) and key not in ignored
    }


_OWN_TO_A_RUN = ("trainer/log_writer/",)  # positions in its metrics file, whose lines hold times
_COUNTERS = ("epoch", "update", "sample", "world_size", "resumable", "spec_sha256")
_SHOWN = 60  # characters of a value


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference between two checkpoints.

    Attributes:
        file: File of the checkpoint.
        place: Tensor or value in it.
        detail: Both values, or their distance.
    """

    file: str
    place: str
    detail: str

    def __str__(self) -> str:
        """Return the difference as one line."""
        return f"{self.file}: {self.place}: {self.detail}" if self.place else f"{self.file}: {self.detail}"


def differences(straight: Path, interrupted: Path, ignored: Collection[str] = ()) -> list[Difference]:
    """Return the first difference of each file, weights first.

    Args:
        straight: Checkpoint of the run that was not interrupted.
        interrupted: Checkpoint of the run that was.
        ignored: Places in `trainer.json` that are not compared, as `Difference.place` spells them.

    Raises:
        CheckpointError: if one of them is damaged.
    """
    left, right = SavedCheckpoint.open(straight), SavedCheckpoint.open(interrupted)
    found = list(_of_manifests(left.manifest, right.manifest))
    names = left.manifest.files.keys() | right.manifest.files.keys()
    for name in sorted(names, key=lambda name: (name != WEIGHTS, name != OPTIMIZER, name)):
        if name not in left.manifest.files or name not in right.manifest.files:
            run = "straight" if name in left.manifest.files else "interrupted"
            found.append(Difference(name, "", f"only the {run} run has it"))
        elif name == SPEC:
            continue  # the manifests have its hash
        elif name.endswith(".safetensors"):
            found += _of_tensors(name, left, right)
        else:
            found += _of_values(name, left, right, ignored)
    return found


def clock_places(straight: Path, interrupted: Path) -> frozenset[str]:
    """Return the places in the states of callbacks that differ between two runs before any interruption."""
    both = [
        _leaves(json.loads(_bytes(SavedCheckpoint.open(checkpoint), TRAINER)).get("callbacks"))
        for checkpoint in (straight, interrupted)
    ]
    return frozenset(
        f"callbacks/{place}" for place in both[0].keys() & both[1].keys() if both[0][place] != both[1][place]
    )


def _of_manifests(left: Manifest, right: Manifest) -> Iterator[Difference]:
    for counter in _COUNTERS:
        if getattr(left, counter) != getattr(right, counter):
            yield Difference("manifest.json", counter, _values(getattr(left, counter), getattr(right, counter)))
            return
    names = [{name: named for name, named in side.names.items() if name != "last"} for side in (left, right)]
    for name in sorted(names[0].keys() | names[1].keys()):
        if (one := names[0].get(name)) != (other := names[1].get(name)):
            yield Difference("manifest.json", name, _values(one and one.update, other and other.update))
            return


def _of_tensors(name: str, left: SavedCheckpoint, right: SavedCheckpoint) -> list[Difference]:
    if _bytes(left, name) == _bytes(right, name):
        return []
    one, other = left.tensors(name), right.tensors(name)
    for key in sorted(one.keys() | other.keys()):
        if key not in one or key not in other:
            return [Difference(name, key, f"only the {'straight' if key in one else 'interrupted'} run has it")]
        if detail := _deviation(one[key], other[key]):
            return [Difference(name, key, detail)]
    return [Difference(name, "", "other bytes of equal tensors")]


def _deviation(one: Any, other: Any) -> str | None:
    """Describe the difference of two tensors, or of other values of a state; None if all bits are equal."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return None if encode_state({"": one}) == encode_state({"": other}) else _values(one, other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return _values(f"{one.dtype} {tuple(one.shape)}", f"{other.dtype} {tuple(other.shape)}")
    if torch.equal(one.contiguous().view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8)):
        return None
    apart = ((one - other) if one.is_complex() else (one.double() - other.double())).abs()
    return f"{int((apart != 0).sum())} of {apart.numel()} values differ, by {float(apart.max()):.3g} at most"


def _of_values(name: str, left: SavedCheckpoint, right: SavedCheckpoint, ignored: Collection[str]) -> list[Difference]:
    data = _bytes(left, name), _bytes(right, name)
    if data[0] == data[1]:
        return []
    one, other = (_leaves(json.loads(side)) for side in data)
    for place in sorted(one.keys() | other.keys()):
        if place.startswith(_OWN_TO_A_RUN) or place in ignored:
            continue
        if place not in one or place not in other:
            return [Difference(name, place, f"only the {'straight' if place in one else 'interrupted'} run has it")]
        if one[place] != other[place]:
            return [Difference(name, place, _values(one[place], other[place]))]
    return []


def _leaves(tree: Any, path: str = "") -> dict[str, Any]:
    """Return the values of nested tables and lists by path; an empty table is a value."""
    items: Mapping[Any, Any] = (
        tree if isinstance(tree, dict) else dict(enumerate(tree)) if isinstance(tree, list) else {}
    )
    if not items:
        return {path: tree}
    return {
        place: leaf for key, item in items.items() for place, leaf in _leaves(item, f"{path}/{key}".lstrip("/")).items()
    }


def _values(straight: object, interrupted: object) -> str:
    return f"{str(straight)[:_SHOWN]} straight, {str(interrupted)[:_SHOWN]} interrupted"


def _bytes(checkpoint: SavedCheckpoint, name: str) -> bytes:
    return read_file(checkpoint.folder, checkpoint.manifest, name)


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
