"""Checkpoint names: resolve `latest`, `last`, `best_model.…` to a checkpoint and its weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from noether.checkpoint.folder import checkpoint_folders, checkpoint_name
from noether.checkpoint.manifest import WEIGHTS, NamedCheckpoint, NewerFormatError
from noether.checkpoint.saved import SavedCheckpoint
from noether.core.utils.nearest import did_you_mean
from noether.errors import CheckpointError

_IN_ONE_LINE = 4
_MEANT = 3  # suggestions at most


def meant_by(name: str, known: Sequence[str]) -> str:
    """Return `" Did you mean …?"` to append to a message, or an empty string.

    A name may be the beginning of others: `E8` of `E8_U176_S11264`, and `best_model` of every best one.

    Args:
        name: The name that was asked for.
        known: All that there are.
    """
    spelt = name.replace("/", ".")
    beginnings = (f"{spelt}_".lower(), f"{spelt}.".lower())
    longer = [candidate for candidate in known if candidate.lower().startswith(beginnings)]
    if not longer:
        return did_you_mean(spelt, known)
    return f" Did you mean {' or '.join(map(repr, longer[:_MEANT]))}?"


def choices(known: Sequence[str]) -> str:
    """Return a hint with all names that there are: few with commas between them, many below each other."""
    if len(known) > _IN_ONE_LINE:
        return "\n    ".join(["it has", *known])
    return "it has " + (", ".join(known) or "none that is sound")


LATEST = "latest"

_LOG = logging.getLogger("noether.checkpoints")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a name stands for.

    Attributes:
        saved: The checkpoint.
        weights: The file in it that holds the weights meant: `model.safetensors`, or an EMA's.
    """

    saved: SavedCheckpoint
    weights: str = WEIGHTS

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights; averages of a part of the model are completed with the live weights beside them.

        Raises:
            CheckpointError: They are damaged, or the step holds none.
        """
        files = self.saved.manifest.files
        if self.weights not in files:
            raise CheckpointError(f"{self.saved.folder} holds no weights: it is a partial save of {', '.join(files)}")
        live = self.saved.tensors(WEIGHTS) if self.weights != WEIGHTS and WEIGHTS in files else {}
        return live | self.saved.tensors(self.weights)


class CheckpointNames:
    """Resolves names over the steps of one run.

    A name is one of
    - `latest`: the newest step that a run can go on from. It follows from the steps that are there; damaged ones are
      skipped with a warning;
    - one that was given when a step was saved: `last`, `best_model.<metric>`, `best_model.<metric>.tolerance=5`.
      The metric's slashes may be written as slashes or as dots;
    - a position, `E1_U50_S3200`;
    - a folder, `step-000000000050`.

    Args:
        checkpoints: The folder of the step folders.
    """

    def __init__(self, checkpoints: Path) -> None:
        self.checkpoints = checkpoints

    def find(self, name: str) -> Checkpoint:
        """Return what `name` stands for; of its files, only the manifest is read.

        Raises:
            CheckpointError: There is no such checkpoint, the message lists those that exist; or it is damaged.
        """
        return self.load(name, lambda found: found)

    def load(self, name: str, read: Callable[[Checkpoint], _T]) -> _T:
        """Return what `read` makes of the checkpoint called `name`.

        As `latest`, it is made of the newest step of which it can be made: where a step turns out to be damaged while
        `read` reads it, the next older one is taken.

        Args:
            name: The name.
            read: Reads what is wanted; what it leaves alone is neither read nor checked.

        Raises:
            CheckpointError: There is no such checkpoint, or it is damaged.
        """
        if name == LATEST:
            return self._load_latest(read)
        return read(self._named(name))

    def known(self) -> list[str]:
        """Return all names that can be resolved, positions last."""
        steps = self._sound_steps()
        latest = [LATEST] if any(step.manifest.resumable for step in steps) else []
        given = steps[-1].manifest.names if steps else {}
        return [*latest, *given, *(step.manifest.iteration for step in steps)]

    def _load_latest(self, read: Callable[[Checkpoint], _T]) -> _T:
        damages: list[str] = []
        for folder in reversed(checkpoint_folders(self.checkpoints)):
            try:
                step = SavedCheckpoint.open(folder)
                if step.manifest.resumable:
                    return read(Checkpoint(step))
            except NewerFormatError:  # going on from an older one would throw sound work away
                raise
            except CheckpointError as error:
                damages.append(error.message)
                _LOG.warning("%s; looking for an older one", error.message)
        if damages:
            raise CheckpointError(
                f"no sound checkpoint is left in {self.checkpoints}: " + "; ".join(damages),
                hint="restore the folder from a backup, or start a new run",
            )
        raise self._unknown(LATEST)

    def _named(self, name: str) -> Checkpoint:
        steps = self._sound_steps()
        # The newest step has the complete table of names; what another one says of them may be out of date.
        given = steps[-1].manifest.names if steps else {}
        if (named := given.get(name) or given.get(name.replace("/", "."))) is not None:
            return self._of(name, named)
        for step in steps:
            if name in (step.manifest.iteration, step.folder.name):
                return Checkpoint(step)
        if (folder := self.checkpoints / name) in checkpoint_folders(self.checkpoints):
            return Checkpoint(SavedCheckpoint.open(folder))  # it is damaged: let that be said
        raise self._unknown(name)

    def _of(self, name: str, named: NamedCheckpoint) -> Checkpoint:
        folder = self.checkpoints / checkpoint_name(named.update)
        if not folder.exists():
            raise CheckpointError(
                f"checkpoint {name!r} is {folder.name}, which {self.checkpoints} does not hold any more",
                hint=self._choices(),
            )
        return Checkpoint(SavedCheckpoint.open(folder), named.weights)

    def _sound_steps(self) -> list[SavedCheckpoint]:
        """Return the steps whose manifest verifies, oldest first."""
        steps = []
        for folder in checkpoint_folders(self.checkpoints):
            try:
                steps.append(SavedCheckpoint.open(folder))
            except CheckpointError as error:
                _LOG.warning("%s; it is left out", error.message)
        return steps

    def _unknown(self, name: str) -> CheckpointError:
        if not checkpoint_folders(self.checkpoints):
            return CheckpointError(f"{self.checkpoints} holds no checkpoints, so none is called {name!r}")
        meant = meant_by(name, self.known())
        return CheckpointError(f"{self.checkpoints} holds no checkpoint {name!r}.{meant}", hint=self._choices())

    def _choices(self) -> str:
        return choices(self.known())
