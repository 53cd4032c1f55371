"""Where two checkpoints of the same update differ, bit by bit."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noether.checkpoint.folder import read_file
from noether.checkpoint.manifest import OPTIMIZER, WEIGHTS, Manifest
from noether.checkpoint.saved import SavedCheckpoint
from noether.checkpoint.state import TRAINER

_OWN_TO_A_RUN = ("trainer/log_writer/",)  # positions in its metrics file, whose lines hold times
_COUNTERS = ("epoch", "update", "sample", "world_size", "resumable", "spec_sha256")
_SHOWN = 60  # characters of a value


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not the same.

    Attributes:
        file: The file of the checkpoint.
        place: The tensor or the value in it.
        detail: How it differs.
    """

    file: str
    place: str
    detail: str

    def __str__(self) -> str:
        """Return it as one line."""
        return f"{self.file}: {self.place}: {self.detail}" if self.place else f"{self.file}: {self.detail}"


def differences(straight: Path, interrupted: Path, ignored: Collection[str] = ()) -> list[Difference]:
    """Return the first difference of each file, weights first.

    Args:
        straight: The step of a run that was not interrupted.
        interrupted: The step of one that was.
        ignored: Places in `trainer.json` that are not compared, as `Difference.place` spells them.

    Raises:
        CheckpointError: One of them is damaged.
    """
    left, right = SavedCheckpoint.open(straight), SavedCheckpoint.open(interrupted)
    found = list(_of_manifests(left.manifest, right.manifest))
    names = left.manifest.files.keys() | right.manifest.files.keys()
    for name in sorted(names, key=lambda name: (name != WEIGHTS, name != OPTIMIZER, name)):
        if name not in left.manifest.files or name not in right.manifest.files:
            run = "straight" if name in left.manifest.files else "interrupted"
            found.append(Difference(name, "", f"only the {run} run has it"))
        elif name.endswith(".safetensors"):
            found += _of_tensors(name, left, right)
        else:
            found += _of_values(name, left, right, ignored)
    return found


def clock_places(straight: Path, interrupted: Path) -> frozenset[str]:
    """Return the places in the states of callbacks that differ between two runs that nobody has interrupted yet."""
    both = [
        _leaves(json.loads(_bytes(SavedCheckpoint.open(step), TRAINER)).get("callbacks"))
        for step in (straight, interrupted)
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


def _deviation(one: Tensor, other: Tensor) -> str | None:
    """Return how two tensors differ; None where all bits are the same."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return _values(f"{one.dtype} {tuple(one.shape)}", f"{other.dtype} {tuple(other.shape)}")
    if torch.equal(one.contiguous().view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8)):
        return None
    apart = (one.double() - other.double()).abs()
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


def _bytes(step: SavedCheckpoint, name: str) -> bytes:
    return read_file(step.folder, step.manifest, name)
