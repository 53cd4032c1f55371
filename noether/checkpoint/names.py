"""Checkpoint names: resolve `latest`, `last`, `best_model.…` to a checkpoint and its weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from noether.checkpoint.manifest import WEIGHTS, Manifest, NamedCheckpoint, NewerFormatError
from noether.checkpoint.paths import checkpoint_folders, checkpoint_name
from noether.checkpoint.saved import SavedCheckpoint
from noether.checkpoint.state import CALLBACKS
from noether.errors import CheckpointError
from noether.kernel.names import did_you_mean

LATEST = "latest"
_LOG = logging.getLogger("noether.checkpoints")
_T = TypeVar("_T")
_IN_ONE_LINE = 4
_MEANT = 3  # suggestions at most


class CheckpointNames:
    """Resolve names of the checkpoints of one run.

    A name is one of
    - `latest`: the newest checkpoint that can be resumed from; damaged ones are skipped with a warning;
    - one that was given when a checkpoint was saved: `last`, `best_model.<metric>`, `best_model.<metric>.tolerance=5`.
      The metric's slashes may be written as slashes or as dots;
    - a position, `E1_U50_S3200`;
    - a folder, `step-000000000050`.

    Args:
        checkpoints: The folder of the checkpoints.
    """

    def __init__(self, checkpoints: Path) -> None:
        self.checkpoints = checkpoints

    def find(self, name: str) -> Checkpoint:
        """Return the checkpoint called `name`; only its manifest is read.

        Raises:
            CheckpointError: if there is no such checkpoint (lists the names), or it is damaged.
        """
        return self.load(name, lambda found: found)

    def load(self, name: str, read: Callable[[Checkpoint], _T]) -> _T:
        """Read the checkpoint called `name` with `read`, and return its result.

        For `latest`, if `read` finds the newest checkpoint damaged, it is called with the next older one.

        Args:
            name: The name.
            read: Reads the files that it needs; other files are neither read nor verified.

        Raises:
            CheckpointError: if there is no such checkpoint, or it is damaged.
        """
        if name == LATEST:
            return self._load_latest(read)
        return read(self._named(name))

    def load_weights(self, name: str) -> tuple[Checkpoint, dict[str, Any]]:
        """Return the checkpoint called `name`, and its weights; as `load` does.

        Raises:
            CheckpointError: if there is no such checkpoint, it is damaged, or it has no weights.
        """
        return self.load(name, lambda found: (found, found.tensors()))

    def known(self) -> list[str]:
        """Return all names that can be resolved, positions last."""
        valid = self._valid()
        latest = [LATEST] if any(checkpoint.manifest.resumable for checkpoint in valid) else []
        given = valid[-1].manifest.names if valid else {}
        return [*latest, *given, *(checkpoint.manifest.iteration for checkpoint in valid)]

    def newest_resumable(self) -> Manifest | None:
        """Return the manifest of the newest checkpoint from which a run can continue; its files are not read."""
        return next((found.manifest for found in reversed(self._valid()) if found.manifest.resumable), None)

    def _load_latest(self, read: Callable[[Checkpoint], _T]) -> _T:
        damages: list[str] = []
        for folder in reversed(checkpoint_folders(self.checkpoints)):
            try:
                checkpoint = SavedCheckpoint.open(folder)
                if checkpoint.manifest.resumable:
                    return read(Checkpoint(checkpoint))
            except NewerFormatError:  # an older one would throw valid work away
                raise
            except CheckpointError as error:
                damages.append(error.message)
                _LOG.warning("%s; trying an older one", error.message)
        if damages:
            raise CheckpointError(
                f"no valid checkpoint is left in {self.checkpoints}: " + "; ".join(damages),
                hint="restore the folder from a backup, or start a new run",
            )
        raise self._unknown(LATEST)

    def _named(self, name: str) -> Checkpoint:
        valid = self._valid()
        given = valid[-1].manifest.names if valid else {}  # older tables of names may be out of date
        if (named := given.get(name) or given.get(name.replace("/", "."))) is not None:
            return self._of(name, named)
        for checkpoint in valid:
            if name in (checkpoint.manifest.iteration, checkpoint.folder.name):
                return Checkpoint(checkpoint)
        if (folder := self.checkpoints / name) in checkpoint_folders(self.checkpoints):
            return Checkpoint(SavedCheckpoint.open(folder))  # raises the error that says how it is damaged
        raise self._unknown(name)

    def _of(self, name: str, named: NamedCheckpoint) -> Checkpoint:
        folder = self.checkpoints / checkpoint_name(named.update)
        if not folder.exists():
            raise CheckpointError(
                f"checkpoint {name!r} is {folder.name}, which was removed from {self.checkpoints}",
                hint=choices(self.known()),
            )
        return Checkpoint(SavedCheckpoint.open(folder), named.weights)

    def _valid(self) -> list[SavedCheckpoint]:
        """Return the checkpoints whose manifest verifies, oldest first."""
        valid = []
        for folder in checkpoint_folders(self.checkpoints):
            try:
                valid.append(SavedCheckpoint.open(folder))
            except CheckpointError as error:
                _LOG.warning("%s; it is skipped", error.message)
        return valid

    def _unknown(self, name: str) -> CheckpointError:
        if not checkpoint_folders(self.checkpoints):
            return CheckpointError(f"{self.checkpoints} holds no checkpoints, so none is called {name!r}")
        meant = meant_by(name, self.known())
        return CheckpointError(f"{self.checkpoints} holds no checkpoint {name!r}.{meant}", hint=choices(self.known()))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The target of a name.

    Attributes:
        saved: The checkpoint.
        weights: Its file with the named weights: `model.safetensors`, or averages.
    """

    saved: SavedCheckpoint
    weights: str = WEIGHTS

    @property
    def path(self) -> Path:
        """The file with the named weights."""
        return self.saved.folder / self.weights

    @property
    def position(self) -> str:
        """Position of the checkpoint, with the file if it is not the live weights: `E1_U50_S3200.ema=0.999`."""
        iteration, file = self.saved.manifest.iteration, Path(self.weights)
        return iteration if self.weights == WEIGHTS else f"{iteration}.{file.parent.name}={file.stem}"

    def tensors(self) -> dict[str, Any]:
        """Return the weights and the other values of the state; averages of a part are completed with live weights.

        Raises:
            CheckpointError: if they are damaged, or the checkpoint has none.
        """
        files = self.saved.manifest.holds
        if self.weights not in files:
            raise CheckpointError(
                f"{self.saved.folder} has no weights: found {', '.join(sorted(files))}, expected {self.weights}"
            )
        live = self.saved.tensors(WEIGHTS) if self.weights != WEIGHTS and WEIGHTS in files else {}
        return live | self.saved.tensors(self.weights)

    def averaged(self, averages: str) -> Checkpoint:
        """Return the averaged weights of the checkpoint instead of its live ones.

        Args:
            averages: The factor, `0.999`; or id of the callback and factor, `ema/0.999`.

        Raises:
            CheckpointError: if the checkpoint has no such averages, or several; the message lists those that it has.
        """
        files = [name for name in self.saved.manifest.holds if name.startswith(CALLBACKS) and name.count("/") > 1]
        held = {name.removeprefix(f"{CALLBACKS}/").removesuffix(".safetensors"): name for name in sorted(files)}
        found = [name for name in held if averages in (name, name.rpartition("/")[2])]
        if len(found) == 1:
            return Checkpoint(self.saved, held[found[0]])
        raise CheckpointError(
            f"{self.saved.folder}: {'ambiguous' if found else 'unknown'} averages: found {averages!r}, expected "
            "averages of the checkpoint",
            hint=f"it holds {', '.join(held)}" if held else "it holds none; choose one of `noether checkpoint list`",
        )


def meant_by(name: str, known: Sequence[str]) -> str:
    """Return `" Did you mean …?"` to append to a message, or an empty string.

    A name may be the beginning of others: `E8` of `E8_U176_S11264`, and `best_model` of every best one.

    Args:
        name: The unknown name.
        known: All names.
    """
    spelt = name.replace("/", ".")
    beginnings = (f"{spelt}_".lower(), f"{spelt}.".lower())
    longer = [candidate for candidate in known if candidate.lower().startswith(beginnings)]
    if not longer:
        return did_you_mean(spelt, known)
    return f" Did you mean {' or '.join(map(repr, longer[:_MEANT]))}?"


def choices(known: Sequence[str]) -> str:
    """Return a hint that lists all names: in one line, or below each other if they are many."""
    if len(known) > _IN_ONE_LINE:
        return "\n    ".join(["it has", *known])
    return "it has " + (", ".join(known) or "no valid checkpoint")
