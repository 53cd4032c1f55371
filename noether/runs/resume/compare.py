"""Records of an interrupted run, and its differences from a straight one: checkpoints and metrics."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noether.checkpoint.manifest import OPTIMIZER, SPEC, WEIGHTS, Manifest
from noether.checkpoint.paths import read_file
from noether.checkpoint.saved import SavedCheckpoint
from noether.checkpoint.state import TRAINER, encode_state
from noether.core.callbacks.tree import family
from noether.kernel.hookspecs import hookimpl
from noether.kernel.progress import UpdateCounter
from noether.metrics.log import LogWriter
from noether.metrics.metrics_file import MetricRecord, MetricsFile, spell_number

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


Remembered = dict[str, dict[str, str]]
"""The plain attributes of callbacks by id and name, as text."""


class Interruption:
    """Follows one attempt at a run.

    Args:
        stops: Updates after which a checkpoint is saved.
        kept: Folder for copies of the checkpoints.
        interrupts: Stop the run there by SIGTERM; otherwise it only saves.

    Attributes:
        logged_by: The ids of the callbacks by the metric key that they logged.
        foreign: The ids of the callbacks that are not built in.
        at_checkpoints: Attributes of the callbacks at each checkpoint, by update.
        at_start: Their attributes when training began or continued.
        started_at: The update at which it did.
        has_interrupted: True if this plugin stopped the run.
    """

    def __init__(self, stops: Collection[int], kept: Path, *, interrupts: bool) -> None:
        self.stops = frozenset(stops)
        self.kept = kept
        self.interrupts = interrupts
        self.logged_by: dict[str, str] = {}
        self.foreign: set[str] = set()
        self.at_checkpoints: dict[int, Remembered] = {}
        self.at_start: Remembered = {}
        self.started_at = 0
        self.has_interrupted = False
        self._trainer: Any = None

    @hookimpl
    def run_started(self, run: Any) -> None:
        """Record the callback of each metric key."""
        self._trainer = run.trainer
        for callback in family(run.trainer.callbacks):
            callback.writer = _AttributedWriter(callback.writer, callback.id, self.logged_by)
            if not type(callback).__module__.startswith("noether."):
                self.foreign.add(callback.id)

    @hookimpl(trylast=True)
    def before_training(self, update_counter: UpdateCounter) -> None:
        """Record the attributes of the callbacks."""
        self.started_at = update_counter.update
        self.at_start = self._remembered()

    @hookimpl(trylast=True)
    def after_update(self, update_counter: UpdateCounter) -> None:
        """Save or stop, unless `after_epoch` follows."""
        if not update_counter.is_full_epoch:
            self._act(update_counter)

    @hookimpl(trylast=True)
    def after_epoch(self, update_counter: UpdateCounter) -> None:
        """Save or stop."""
        self._act(update_counter)

    @hookimpl
    def checkpoint_committed(self, checkpoint: Path) -> None:
        """Copy the checkpoint of an interruption, which the run itself may remove, and that of the end."""
        update = self._trainer.update_counter.update
        self.at_checkpoints[update] = self._remembered()
        if update in self.stops or self._trainer.update_counter.is_finished or self._trainer.stop_reason is not None:
            target = self.kept / checkpoint.name
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(checkpoint, target, copy_function=os.link)  # committed checkpoints are never written to

    def _act(self, update_counter: UpdateCounter) -> None:
        if update_counter.update not in self.stops:
            return
        if self.interrupts:
            self.has_interrupted = True
            signal.raise_signal(signal.SIGTERM)
        else:
            self._trainer.checkpoint_writer.save()

    def _remembered(self) -> Remembered:
        return {
            callback.id: {name: text for name, value in vars(callback).items() if (text := _text(value)) is not None}
            for callback in family(self._trainer.callbacks)
        }


class _AttributedWriter(LogWriter):
    """A view of a log writer that records the callback of each metric key; so do its own views.

    Args:
        writer: The writer of a callback.
        callback: Id of the callback.
        logged_by: Ids by metric key.
    """

    def __init__(self, writer: LogWriter, callback: str, logged_by: dict[str, str]) -> None:
        self._writer = writer
        self.prefix = writer.prefix
        self.round = writer.round
        self._callback = callback
        self._logged_by = logged_by

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def add_scalar(
        self, key: str, value: Any, logger: logging.Logger | None = None, format_str: str | None = None
    ) -> None:
        """Add a metric as usual."""
        super().add_scalar(key, value, logger, format_str)
        self._logged_by[self.prefix + key] = self._callback

    def below(self, prefix: str) -> LogWriter:
        """Return a view that records as this one does."""
        return _AttributedWriter(self._writer.below(prefix), self._callback, self._logged_by)


def _text(value: Any) -> str | None:
    """Return plain data as text; None for other objects, which a state would not hold as they are."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, Tensor):
        return (
            f"tensor of shape {tuple(value.shape)}: {value.detach().cpu().tolist()!r}" if value.numel() < 100 else None
        )
    if isinstance(value, list | tuple | set | frozenset):
        items = [_text(item) for item in value]
        return None if None in items else f"{type(value).__name__}({', '.join(map(str, items))})"
    if isinstance(value, dict):
        values = {str(key): _text(value[key]) for key in sorted(value, key=str)}
        return None if None in values.values() else str(values)
    return None
